# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A table of predictions: one row per image, written as soon as the image is judged.

``predictions.csv`` and ``predictions.jsonl`` hold the same rows. Each is flushed after every batch, so that a run
that is interrupted leaves all that was finished, and nothing is kept in memory but the worst few rows.
"""

import csv
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from heapq import heappush, heappushpop
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from skimage.measure import label, regionprops
from typing_extensions import Self

from anople_anomalib.data.unreadable import take_unreadable
from anople_anomalib.metrics.category_scores import IMAGE
from anople_anomalib.metrics.raw_scores import RawScoreKeeper
from anople_anomalib.utils.terminal import UNREADABLE, end_with, runs_from_command_line

from .post_processing import ExactPostProcessor

logger = logging.getLogger(__name__)

OK, NOT_OK, ERROR = "OK", "NOT OK", "ERROR"
"""The verdicts of a row."""

COLUMNS = (
    "path", "category", "verdict", "score", "normalized_score", "threshold", "regions", "seconds", "error",
)  # fmt: skip
_WORST = 5


class Region(NamedTuple):
    """A connected region of marked pixels, in pixels of the image file.

    Attributes:
        box: Left, top, width and height of its bounding box.
        peak: Largest value of the anomaly map in it.
        area: Number of pixels.
    """

    box: tuple[int, int, int, int]
    peak: float
    area: int


def regions_of(mask: torch.Tensor, anomaly_map: torch.Tensor, size: tuple[int, int]) -> list[Region]:
    """Find the connected regions of a mask.

    Args:
        mask: Marked pixels, shape ``(h, w)``, dtype bool.
        anomaly_map: Shape ``(h, w)``.
        size: Width and height of the image file, to which boxes and areas are scaled.

    Returns:
        The regions, that with the highest peak first.
    """
    height, width = mask.shape
    x, y = size[0] / width, size[1] / height
    regions = []
    for found in regionprops(label(mask.cpu().numpy()), intensity_image=anomaly_map.float().cpu().numpy()):
        top, left, bottom, right = found.bbox
        box = (round(left * x), round(top * y), round((right - left) * x), round((bottom - top) * y))
        regions.append(Region(box, round(float(found.intensity_max), 6), round(float(found.area) * x * y)))
    return sorted(regions, key=lambda region: -region.peak)


class TableWriter:
    """Writer of rows to ``predictions.csv`` and ``predictions.jsonl`` that keeps count of them.

    Args:
        folder: Folder of both files, made if missing; files of an earlier run are replaced.
        name: Name of both files without their suffix.

    Attributes:
        counts: Number of rows of each verdict.
        worst: The rows with the highest scores, worst first.
    """

    def __init__(self, folder: Path, name: str = "predictions") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.csv_path, self.jsonl_path = folder / f"{name}.csv", folder / f"{name}.jsonl"
        self.counts = dict.fromkeys((OK, NOT_OK, ERROR), 0)
        self._heap: list[tuple[float, int, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        """Open both files and write the header."""
        self._csv_file = self.csv_path.open("w", encoding="utf-8", newline="")
        self._jsonl_file = self.jsonl_path.open("w", encoding="utf-8")
        self._writer = csv.DictWriter(self._csv_file, COLUMNS)
        self._writer.writeheader()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both files."""
        self._csv_file.close()
        self._jsonl_file.close()

    @property
    def worst(self) -> list[dict[str, Any]]:
        """The rows with the highest scores, worst first."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and flush them.

        Args:
            rows: Mappings with the keys of :data:`COLUMNS`; ``regions`` is a list of :class:`Region`.
        """
        for given in rows:
            row = {column: given[column] for column in COLUMNS}
            row["regions"] = [region._asdict() for region in row["regions"]]
            self._jsonl_file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._writer.writerow({**row, "regions": json.dumps(row["regions"])})
            self.counts[row["verdict"]] += 1
            if row["score"] is not None:
                # equal scores: the earlier row is the worse one, and rows themselves are never compared
                entry = (float(row["score"]), -sum(self.counts.values()), row)
                (heappush if len(self._heap) < _WORST else heappushpop)(self._heap, entry)
        self._csv_file.flush()
        self._jsonl_file.flush()


class PredictionTable(Callback):
    """Callback that writes a row for every tested or predicted image, and a summary at the end.

    Of several processes each writes a file of its own; the first one's has the plain name.

    Args:
        raw: The callback that keeps the raw scores.
    """

    def __init__(self, raw: RawScoreKeeper) -> None:
        self.raw = raw
        self._table: TableWriter | None = None
        self._started = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files."""
        del pl_module
        name = "predictions" if trainer.is_global_zero else f"predictions_{trainer.global_rank}"
        self._close()
        self._table = TableWriter(Path(trainer.default_root_dir), name).__enter__()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files; on the command line, keep no predictions besides: they grow by a megabyte per image."""
        self.on_test_start(trainer, pl_module)
        if runs_from_command_line():
            trainer.predict_loop.return_predictions = False

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
        self._table.write(
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
        del pl_module
        self._write_unreadable(trainer)
        if self._table is not None and self._table.counts[ERROR]:
            end_with(UNREADABLE)
        if self._table is not None and trainer.is_global_zero:
            logger.info("%s", summary(self._table))
        self._close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the files and log a summary."""
        self.on_test_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the files: what is finished stays."""
        del trainer, pl_module, exception
        self._close()

    def _write_unreadable(self, trainer: Trainer) -> None:
        """Write a row for every image that the data loaders have left out."""
        loaders = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
        if self._table is not None:
            nothing: dict[str, Any] = {**dict.fromkeys(COLUMNS), "category": "", "verdict": ERROR, "regions": []}
            self._table.write({**nothing, **image._asdict()} for image in take_unreadable(loaders))

    def _close(self) -> None:
        if self._table is not None:
            self._table.__exit__(None, None, None)
        self._table = None


def summary(table: TableWriter) -> str:
    """Summarize a table: how many images, how many not OK, the worst ones, where everything is.

    Args:
        table: The table.

    Returns:
        A few lines of text.
    """
    counts = table.counts
    unjudged = sum(counts.values()) - counts[OK] - counts[NOT_OK]
    lines = [f"{sum(counts.values())} images: {counts[NOT_OK]} not OK, {counts[OK]} OK"]
    lines[0] += f", {unjudged} could not be judged." if unjudged else "."
    for row in table.worst:
        threshold = "" if row["threshold"] is None else f" (threshold {row['threshold']:.4g})"
        lines.append(f"  {row['verdict']:6} {row['score']:.4g}{threshold}  {row['path']}")
    lines.append(f"Every image: {table.csv_path} and {table.jsonl_path.name}")
    return "\n".join(lines)


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
