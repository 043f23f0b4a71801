# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A table of predictions: one row per image, written as soon as the image is judged.

``predictions.csv`` and ``predictions.jsonl`` hold the same rows. Each is flushed after every batch, so that a run
that is interrupted leaves all that was finished, and nothing is kept in memory but the worst few rows.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from anople_anomalib.data.unreadable import Unreadable, take_unreadable
from anople_anomalib.data.watching import ImageSeries, WatchedFolder, series_in
from anople_anomalib.metrics.category_scores import IMAGE
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.raw_scores import RawScoreKeeper

from .table import COLUMNS, ERROR, NOT_OK, OK, TableWriter, line_of, regions_of, summary

logger = logging.getLogger(__name__)


class PredictionTable(Callback):
    """Callback that writes a row for every tested or predicted image, and a summary at the end.

    Args:
        raw: The callback that keeps the raw scores.

    Attributes:
        errors: Number of images of the last run that could not be judged.
    """

    def __init__(self, raw: RawScoreKeeper) -> None:
        self.raw, self.errors = raw, 0
        self._table: TableWriter | None = None
        self._started = 0.0
        self._series: ImageSeries | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files."""
        del pl_module
        self._open(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files; rows of a watched folder are added to those of an earlier run, and logged as they come."""
        del pl_module
        self._series = series_in(trainer.predict_dataloaders)
        if self._series is not None:
            self._series.report = lambda image: self._write([_error_row(image)])
        self._open(trainer)

    def on_test_batch_start(self, *args: object, **kwargs: object) -> None:
        """Start the clock of a batch."""
        del args, kwargs
        self._started = time.perf_counter()

    def on_predict_batch_start(self, *args: object, **kwargs: object) -> None:
        """Start the clock of a batch."""
        self.on_test_batch_start(*args, **kwargs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *args: object,
        **kwargs: object,
    ) -> None:
        """Write the rows of a batch."""
        del args, kwargs
        self._write_unreadable(trainer)
        if self._table is None or not isinstance(outputs, ImageBatch):
            return
        seconds = (time.perf_counter() - self._started) / len(outputs)
        threshold = _raw_threshold(pl_module)
        raw = self.raw.of_batch(outputs).pred_score
        scores = [] if raw is None else raw.detach().float().flatten().tolist()
        category_of = getattr(getattr(trainer, "datamodule", None), "category_of", None)
        self._write(
            {
                **_judgment(item, score, threshold),
                "category": _category(item, category_of, pl_module),
                "seconds": round(seconds, 4),
            }
            for item, score in zip(outputs, scores, strict=True)
        )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        *args: object,
        **kwargs: object,
    ) -> None:
        """Write the rows of a batch."""
        self.on_test_batch_end(trainer, pl_module, outputs, *args, **kwargs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the files and log a summary."""
        processor = getattr(pl_module, "post_processor", None)
        self._write_unreadable(trainer)
        if self._table is not None and trainer.is_global_zero:
            logger.info("%s", summary(self._table))
            if isinstance(processor, ExactPostProcessor) and (doubt := processor.doubt()):
                logger.warning("%s", doubt)
        self._close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the files and log a summary."""
        self.on_test_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the files: what is finished stays, and somebody who interrupts is told where it is."""
        del pl_module
        if self._table is not None and isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            logger.info("Interrupted. %s", summary(self._table))
        self._close()

    def _write_unreadable(self, trainer: Trainer) -> None:
        """Write a row for every image that the data loaders have left out."""
        loaders = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
        self._write(_error_row(image) for image in take_unreadable(loaders))

    def _open(self, trainer: Trainer) -> None:
        """Open the files of this process."""
        self._close()
        append = isinstance(self._series, WatchedFolder)
        self._table = TableWriter(Path(trainer.default_root_dir), append=append).__enter__()

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, if the files are open."""
        if self._table is None:
            return
        rows = [self._with_state(row) for row in rows]
        self._table.write(rows)
        if isinstance(self._series, WatchedFolder):
            for row in rows:
                logger.info("%s", line_of(row))

    def _with_state(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the state of the file that was read, where it is known."""
        state = None if self._series is None else self._series.states.pop(row["path"], None)
        return row if state is None else {**row, "modified": state.modified, "bytes": state.size}

    @property
    def number(self) -> str:
        """What the names of this run's files have at their end, see :class:`TableWriter`."""
        return "" if self._table is None else self._table.number

    def _close(self) -> None:
        if self._table is not None:
            self.errors = self._table.counts[ERROR]
            self._table.__exit__(None, None, None)
        self._table = None


def _error_row(image: Unreadable) -> dict[str, Any]:
    """Return the row of an image that cannot be read."""
    return {**dict.fromkeys(COLUMNS), "category": "", "verdict": ERROR, "regions": [], **image._asdict()}


def _judgment(item: ImageItem, score: float, threshold: float | None) -> dict[str, Any]:
    """Return the part of a row that the prediction makes."""
    if item.pred_label is not None:
        verdict = NOT_OK if bool(item.pred_label) else OK
    else:
        verdict = ERROR if threshold is None else (NOT_OK if score > threshold else OK)
    path = item.image_path or ""
    regions = []
    if item.pred_mask is not None and item.anomaly_map is not None:
        mask, anomaly_map = item.pred_mask.squeeze().bool(), item.anomaly_map.squeeze()
        regions = regions_of(mask, anomaly_map, _size_of(path, mask))
    return {
        "path": path,
        "verdict": verdict,
        "score": score,
        "normalized_score": None if item.pred_score is None else float(item.pred_score),
        "threshold": threshold,
        "regions": regions,
        "error": "" if verdict != ERROR else "there is no threshold",
    }


def _raw_threshold(pl_module: LightningModule) -> float | None:
    """Return the threshold of the raw scores, if there is one."""
    processor = getattr(pl_module, "post_processor", None)
    threshold = processor.limit(IMAGE) if isinstance(processor, ExactPostProcessor) else None
    threshold = getattr(processor, "image_threshold", None) if threshold is None else threshold
    value = float("nan") if threshold is None else float(threshold)
    return None if value != value else value  # NaN


def _category(item: ImageItem, category_of: Callable[[str], str] | None, pl_module: LightningModule) -> str:
    """Return the category of an image: as the datamodule says, else the model's only class."""
    if category_of is not None and item.image_path:
        return str(category_of(item.image_path))
    names = getattr(pl_module, "class_names", [])
    return names[0] if len(names) == 1 else ""


def _size_of(path: str, mask: torch.Tensor) -> tuple[int, int]:
    """Return width and height of an image file; those of the mask where there is no file."""
    if not path or not Path(path).is_file():
        return (mask.shape[1], mask.shape[0])
    with Image.open(path) as image:  # reads the header alone
        return image.size
