# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of judged images: their columns, regions and verdicts, two files of them, and their summary."""

import csv
import json
from collections.abc import Iterable, Mapping
from heapq import heappush, heappushpop
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from skimage.measure import label, regionprops
from typing_extensions import Self

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
        folder: Folder of both files, made if missing.
        name: Name of both files without their suffix.
        append: Whether rows are added to those of an earlier run, which are replaced otherwise.

    Attributes:
        counts: Number of rows of each verdict.
        worst: The rows with the highest scores, worst first.
    """

    def __init__(self, folder: Path, name: str = "predictions", *, append: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._mode = "a" if append else "w"
        self.csv_path, self.jsonl_path = folder / f"{name}.csv", folder / f"{name}.jsonl"
        self.counts = dict.fromkeys((OK, NOT_OK, ERROR), 0)
        self._heap: list[tuple[float, int, dict[str, Any]]] = []

    def __enter__(self) -> Self:
        """Open both files and write the header, where there is none."""
        self._csv_file = self.csv_path.open(self._mode, encoding="utf-8", newline="")
        self._jsonl_file = self.jsonl_path.open(self._mode, encoding="utf-8")
        self._writer = csv.DictWriter(self._csv_file, COLUMNS)
        if self._csv_file.tell() == 0:
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
    lines += [f"  {line_of(row)}" for row in table.worst]
    lines.append(f"Every image: {table.csv_path} and {table.jsonl_path.name}")
    return "\n".join(lines)


def line_of(row: Mapping[str, Any]) -> str:
    """Return a row as one line of text: verdict, score and threshold or the error, path.

    Args:
        row: A mapping with the keys of :data:`COLUMNS`.
    """
    if row["score"] is None:
        return f"{row['verdict']:6} {row['error']}"
    threshold = "" if row["threshold"] is None else f" (threshold {row['threshold']:.4g})"
    return f"{row['verdict']:6} {row['score']:.4g}{threshold}  {row['path']}"
