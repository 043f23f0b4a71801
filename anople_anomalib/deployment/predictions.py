# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A table of predictions: one row per image, written as soon as the image is judged.

``predictions.csv`` and ``predictions.jsonl`` hold the same rows. Each is flushed after every batch, so that a run
that is interrupted leaves all that was finished, and nothing is kept in memory but the worst few rows.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import Callback, LightningModule, Trainer

from anople_anomalib.data.image_reading import turned_size
from anople_anomalib.data.watching import ImageSeries, Unreadable, WatchedFolder, series_in
from anople_anomalib.metrics.category_scores import IMAGE
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.raw_scores import RawScoreKeeper
from anople_anomalib.metrics.thresholds import Zone

from .table import COLUMNS, ERROR, TableWriter, line_of, regions_of, stamped, summary, verdict_of

logger = logging.getLogger(__name__)


class FrameNames:
    """Names of the images of a run: their paths, and numbers for frames that come from no file."""

    def __init__(self) -> None:
        self._count = 0

    def name_of(self, path: str | None) -> str:
        """Return the path, or the next number."""
        if path:
            return path
        self._count += 1
        return f"frame_{self._count:06d}"


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
        self._frames = FrameNames()

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
        outputs: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Write the rows of a batch."""
        del args, kwargs
        if self._table is None or not isinstance(outputs, ImageBatch):
            return
        seconds = (time.perf_counter() - self._started) / len(outputs)
        threshold = _raw_threshold(pl_module)
        raw = self.raw.of_batch(outputs).pred_score
        scores = [] if raw is None else raw.detach().float().flatten().tolist()
        processor = _exact_processor(pl_module)
        zone = processor.zone() if processor is not None and processor.look else None
        datamodule = getattr(trainer, "datamodule", None)
        resized = datamodule is not None
        category_of = getattr(datamodule, "category_of", None)
        images = cast("torch.Tensor", outputs.image if self.raw.images is None else self.raw.images)
        self._write(
            {
                **_judgment(item, score, threshold, zone, _size_of(item.image_path, image, resized=resized)),
                "path": self._frames.name_of(item.image_path),
                "category": _category(item, category_of, pl_module),
                "seconds": round(seconds, 4),
            }
            for item, score, image in zip(outputs, scores, images, strict=True)
        )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Write the rows of a batch."""
        self.on_test_batch_end(trainer, pl_module, outputs, *args, **kwargs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the files and log a summary."""
        processor = _exact_processor(pl_module)
        if self._table is not None and trainer.is_global_zero:
            logger.info("%s", summary(self._table))
            if processor is not None and (doubt := processor.doubt()):
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

    def _open(self, trainer: Trainer) -> None:
        """Open the files of this process."""
        self._close()
        self._frames = FrameNames()
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
        """Add time and version of the verdict, and the state of the file that was read, where it is known."""
        row = stamped(row)
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


def _unjudged(error: str) -> dict[str, Any]:
    """Return the part of a row that says why there is no verdict."""
    return {**dict.fromkeys(COLUMNS), "category": "", "verdict": ERROR, "regions": [], "error": error}


def _error_row(image: Unreadable) -> dict[str, Any]:
    """Return the row of an image that cannot be read."""
    return {**_unjudged(image.error), "path": image.path}


def _judgment(
    item: ImageItem, score: float, threshold: float | None, zone: Zone | None, size: tuple[int, int]
) -> dict[str, Any]:
    """Return the part of a row that the prediction makes: no verdict without a threshold and a score that is a number.

    Args:
        item: The prediction.
        score: The raw score.
        threshold: The raw threshold, if there is one.
        zone: Raw scores for which somebody has to look.
        size: Width and height of the image as it was read.
    """
    if not math.isfinite(score):
        error = f"The score is {score}: the image or the model has values that are no numbers."
        return {**_unjudged(error), "threshold": threshold}
    judged = threshold is not None and item.pred_label is not None
    regions = []
    if judged and item.pred_mask is not None and item.anomaly_map is not None:
        regions = regions_of(
            item.pred_mask.squeeze().bool().cpu().numpy(), item.anomaly_map.squeeze().float().cpu().numpy(), size
        )
    return {
        "verdict": verdict_of(bool(item.pred_label), score, zone) if judged else ERROR,
        "score": score,
        "normalized_score": None if item.pred_score is None else float(item.pred_score),
        "threshold": threshold,
        "regions": regions,
        "error": "" if judged else "There is no threshold: set one by anople threshold.",
    }


def _exact_processor(pl_module: LightningModule) -> ExactPostProcessor | None:
    """Return the model's post-processor if it is this package's own."""
    processor = getattr(pl_module, "post_processor", None)
    return processor if isinstance(processor, ExactPostProcessor) else None


def _raw_threshold(pl_module: LightningModule) -> float | None:
    """Return the threshold of the raw scores, if there is one."""
    exact = _exact_processor(pl_module)
    others = getattr(getattr(pl_module, "post_processor", None), "image_threshold", math.nan)
    threshold = float(others if exact is None else exact.limit(IMAGE))
    return None if math.isnan(threshold) else threshold


def _category(item: ImageItem, category_of: Callable[[str], str] | None, pl_module: LightningModule) -> str:
    """Return the category of an image: as the datamodule says, else the model's only class."""
    if category_of is not None and item.image_path:
        return str(category_of(item.image_path))
    names = getattr(pl_module, "class_names", [])
    return names[0] if len(names) == 1 else ""


def _size_of(path: str | None, pixels: torch.Tensor, *, resized: bool) -> tuple[int, int]:
    """Return width and height of an image as it was read.

    Args:
        path: Its file, if there is one.
        pixels: What the data loader gave, shape ``(..., H, W)``.
        resized: Whether a datamodule has resized it: its file then says how large it was.
    """
    if resized and path:
        with suppress(OSError, ValueError):
            return turned_size(path)
    return pixels.shape[-1], pixels.shape[-2]
