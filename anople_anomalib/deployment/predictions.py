# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A table of predictions: one row per image, written and flushed as soon as the image is judged.

A run that is interrupted leaves all that was finished, and nothing is kept in memory but the worst few rows.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback, LightningModule, Trainer

from anople_anomalib.data.image_reading import turned_size
from anople_anomalib.data.image_series import ImageSeries, series_in
from anople_anomalib.metrics.per_category import Categorized, RawScoreKeeper
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.score_counts import IMAGE
from anople_anomalib.metrics.thresholds import Zone
from anople_anomalib.training.hooks import FewShotTraining
from anople_anomalib.utils.batches import datamodule_of, images_of

from .export import Export
from .table import Judgment, TableWriter, line_of, stamped, unjudged

logger = logging.getLogger(__name__)


def frame_name(frames: Iterator[int]) -> str:
    """Return a name for the next of the frames that come from no file."""
    return f"frame_{next(frames):06d}"


class PredictionTable(Callback):
    """Callback that writes a row for every tested or predicted image, and a summary at the end.

    Args:
        raw: The callback that keeps the raw scores.

    Attributes:
        counts: Number of images of the last run with each verdict.
    """

    def __init__(self, raw: RawScoreKeeper) -> None:
        self.raw, self.counts = raw, dict[str, int]()
        self._table: TableWriter | None = None
        self._started = 0.0
        self._series: ImageSeries | None = None
        self._frames = count(1)
        self._model_id: str | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files."""
        self._model_id = pl_module.model_id() if isinstance(pl_module, Export) else None
        self._close()
        self._frames = count(1)
        append = self._series is not None and self._series.endless
        self._table = TableWriter(Path(trainer.default_root_dir), append=append).__enter__()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files; rows of a watched folder are added to those of an earlier run, and logged as they come."""
        self._series = series_in(trainer.predict_dataloaders)
        if self._series is not None:
            self._series.report = lambda image: self._write(
                {**unjudged(image.error), "path": image.path, "category": ""}
            )
        self.on_test_start(trainer, pl_module)

    def on_test_batch_start(self, *args: object, **kwargs: object) -> None:
        """Start the clock of a batch."""
        del args, kwargs
        self._started = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, *args: object, **kwargs: object
    ) -> None:
        """Write the rows of a batch."""
        del args, kwargs
        if self._table is None or not isinstance(outputs, ImageBatch):
            return
        seconds = (time.perf_counter() - self._started) / len(outputs)
        scores, _ = self.raw.of_batch(outputs)
        images = images_of(outputs) if self.raw.images is None else self.raw.images
        limit, zone, good = _limits_of(pl_module)
        for item, score, image in zip(outputs, [] if scores is None else scores.flatten(), images, strict=True):
            size = _size_of(item.image_path, image, resized=datamodule_of(trainer) is not None)
            row = {
                **_judgment(item, float(score), limit, zone, good).row(size, remedy="set one by anople threshold"),
                "path": item.image_path or frame_name(self._frames),
                "category": _category(item.image_path, trainer, pl_module),
                "seconds": round(seconds, 4),
            }
            self._write(row, image)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the files and log a summary."""
        processor = _post_processor_of(pl_module)
        if self._table is not None and trainer.is_global_zero:
            logger.info("%s", self._table.summary())
            if isinstance(processor, ExactPostProcessor) and (doubt := processor.doubt()):
                logger.warning("%s", doubt)
        self._close()

    on_predict_batch_start, on_predict_batch_end = on_test_batch_start, on_test_batch_end
    on_predict_end = on_test_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the files: the finished rows stay, and somebody who interrupts is told where they are."""
        del pl_module
        if self._table is not None and isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            logger.info("Interrupted. %s", self._table.summary())
        self._close()

    def _write(self, row: Mapping[str, Any], pixels: torch.Tensor | None = None) -> None:
        """Write a row, if the files are open, with the state of the file that was read, where it is known."""
        if self._table is None:
            return
        row, series = stamped(row, self._model_id), self._series
        state = None if series is None else series.states.pop(row["path"], None)
        row = row if state is None else {**row, **state.columns()}
        for observe in [] if series is None else series.observers:
            observe(row, pixels)  # first: a row of the table is not judged again, and so never delivered later
        self._table.write([row])
        if series is not None and series.endless:
            logger.info("%s", line_of(row))

    @property
    def number(self) -> str:
        """Addition to the names of this run's files, see :class:`TableWriter`."""
        return "" if self._table is None else self._table.number

    def _close(self) -> None:
        if self._table is not None:
            self.counts = self._table.counts
            self._table.__exit__(None, None, None)
        self._table = None


def _post_processor_of(pl_module: LightningModule) -> PostProcessor | None:
    """Return the model's post-processor if it is of anomalib's kind."""
    processor = pl_module.post_processor if isinstance(pl_module, AnomalibModule) else None
    return processor if isinstance(processor, PostProcessor) else None


def _limits_of(pl_module: LightningModule) -> tuple[float | None, Zone | None, Sequence[float]]:
    """Return the raw threshold of the model, the scores for which somebody has to look, and those of good parts."""
    processor, zone, good = _post_processor_of(pl_module), None, list[float]()
    if processor is None:
        return None, None, good
    limit = processor.image_threshold
    if isinstance(processor, ExactPostProcessor):
        limit, zone = processor.limit(IMAGE), processor.zone() if processor.look else None
        good = processor.normal_scores
    return None if limit.isnan() else float(limit), zone, good


def _judgment(item: ImageItem, score: float, limit: float | None, zone: Zone | None, good: Sequence[float]) -> Judgment:
    return Judgment(
        score,
        None if item.pred_score is None else float(item.pred_score),
        limit,
        None if item.pred_label is None else bool(item.pred_label),
        None if item.pred_mask is None else item.pred_mask.squeeze().bool().cpu().numpy(),
        None if item.anomaly_map is None else item.anomaly_map.squeeze().float().cpu().numpy(),
        zone,
        good,
    )


def _category(path: str | None, trainer: Trainer, pl_module: LightningModule) -> str:
    """Return the category of an image: as the datamodule says, else the model's only class."""
    if path and isinstance(datamodule := datamodule_of(trainer), Categorized):
        return datamodule.category_of(path)
    names = pl_module.class_names if isinstance(pl_module, FewShotTraining) else []
    return names[0] if len(names) == 1 else ""


def _size_of(path: str | None, pixels: torch.Tensor, *, resized: bool) -> tuple[int, int]:
    """Return width and height of an image as it was read: of its pixels, or its file where a datamodule resized it."""
    if resized and path:
        with suppress(OSError, ValueError):
            return turned_size(path)
    return pixels.shape[-1], pixels.shape[-2]
