# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The connected regions that a mask marks in an image, and the place of the largest one in words."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Region(NamedTuple):
    """A connected region of marked pixels, in pixels of the image file."""

    box: tuple[int, int, int, int]  # left, top, width and height of its bounding box
    peak: float  # largest value of the anomaly map in it
    area: int  # number of pixels
    share: float  # of the image's area


def regions_of(mask: NDArray[np.bool_], anomaly_map: NDArray[np.floating[Any]], size: tuple[int, int]) -> list[Region]:
    """Find the connected regions of a mask; pixels that touch at a corner are connected.

    Args:
        mask: Marked pixels, shape ``(h, w)``.
        anomaly_map: Shape ``(h, w)``.
        size: Width and height of the image file, to which boxes and areas are scaled.

    Returns:
        The regions, that with the highest peak first.
    """
    height, width = mask.shape
    x, y = size[0] / width, size[1] / height
    marked = np.pad(mask, ((0, 0), (1, 1))).ravel()
    edges = np.flatnonzero(marked[1:] != marked[:-1])  # of every run of marked pixels, row by row: its start, its end
    if not len(edges):
        return []
    columns = edges % (width + 2)
    rows, starts, ends = (each.tolist() for each in (edges[::2] // (width + 2), columns[::2], columns[1::2]))
    # of a map that is padded alike, no run ends where its numbers do
    peaks = np.maximum.reduceat(np.pad(anomaly_map, ((0, 0), (0, 2))).ravel(), edges)[::2].tolist()
    regions = []
    for members in _connected(rows, starts, ends):
        top, bottom = rows[members[0]], rows[members[-1]] + 1
        left, right = min(starts[run] for run in members), max(ends[run] for run in members)
        area = sum(ends[run] - starts[run] for run in members)
        peak = max(peaks[run] for run in members)
        box = (round(left * x), round(top * y), round((right - left) * x), round((bottom - top) * y))
        regions.append(Region(box, round(peak, 6), round(area * x * y), round(area / mask.size, 6)))
    return sorted(regions, key=lambda region: -region.peak)


def place_of(regions: Sequence[Region], size: tuple[int, int]) -> str:
    """Return the third of an image, of a width and height, that the largest region is in, such as ``"upper left"``."""
    if not regions:
        return ""
    left, top, width, height = max(regions, key=lambda region: region.area).box
    across, down = (min(int(3 * middle), 2) for middle in ((left + width / 2) / size[0], (top + height / 2) / size[1]))
    return f"{('upper', '', 'lower')[down]} {('left', '', 'right')[across]}".strip() or "center"


def _connected(rows: list[int], starts: list[int], ends: list[int]) -> Iterable[list[int]]:
    """Return the numbers of the runs of each connected region, in ascending order."""
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        """Return the first run of a region, and shorten the way to it."""
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    above = 0  # the first run of the row above that may touch this one
    for run, row in enumerate(rows):
        while rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] < starts[run]):
            above += 1
        other = above
        while rows[other] == row - 1 and starts[other] <= ends[run]:
            parents[max(root(run), root(other))] = min(root(run), root(other))
            other += 1
    members: dict[int, list[int]] = {}
    for run in range(len(rows)):
        members.setdefault(root(run), []).append(run)
    return members.values()
