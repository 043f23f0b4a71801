# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Building blocks of procedural textures: noise, waves, cells, strokes.

Every function takes a ``numpy.random.Generator`` and returns one float32 field of shape (size, size) in [0, 1].
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def rescale(field: Field) -> Field:
    """Stretch ``field`` to [0, 1]; a constant field becomes 0."""
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)


def noise(rng: np.random.Generator, size: int, cells_y: float, cells_x: float | None = None) -> Field:
    """Make smooth value noise with about ``cells_y`` by ``cells_x`` independent values."""
    rows = int(np.clip(round(cells_y), 2, size))
    columns = int(np.clip(round(cells_y if cells_x is None else cells_x), 2, size))
    grid = rng.random((rows, columns), dtype=np.float32)
    return np.clip(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def octaves(rng: np.random.Generator, size: int, coarse: float, fine: float, persistence: float = 0.6) -> Field:
    """Sum value noise from ``coarse`` to ``fine`` cells, each octave weaker by ``persistence``."""
    total, weight, cells = np.zeros((size, size), np.float32), 1.0, coarse
    while cells <= fine:
        total += weight * (noise(rng, size, cells) - 0.5)
        cells, weight = cells * 2, weight * persistence
    return rescale(total)


def grain(rng: np.random.Generator, size: int, sigma_y: float, sigma_x: float | None = None) -> Field:
    """Blur white noise by a (possibly elongated) Gaussian, to [0, 1] with mean 0.5."""
    white = rng.standard_normal((size, size), dtype=np.float32)
    sigma_x = sigma_y if sigma_x is None else sigma_x
    blurred = cv2.GaussianBlur(white, (0, 0), sigmaX=max(sigma_x, 0.3), sigmaY=max(sigma_y, 0.3))
    return np.clip(0.5 + 0.2 * blurred / max(float(blurred.std()), 1e-6), 0, 1).astype(np.float32)


def axes(rng: np.random.Generator, size: int, max_angle: float = np.pi, warp: float = 0.0) -> tuple[Field, Field]:
    """Return rotated pixel coordinates (u, v), bent by smooth noise of ``warp`` pixels."""
    angle = rng.uniform(-max_angle, max_angle)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    if warp:
        cells = rng.uniform(2, 7)
        x = x + warp * (noise(rng, size, cells) - 0.5)
        y = y + warp * (noise(rng, size, cells) - 0.5)
    u = np.cos(angle) * x + np.sin(angle) * y
    v = -np.sin(angle) * x + np.cos(angle) * y
    return u.astype(np.float32), v.astype(np.float32)


def wave(phase: Field) -> Field:
    """Return the cosine of ``phase`` turns, in [0, 1]."""
    return (0.5 + 0.5 * np.cos(2 * np.pi * phase)).astype(np.float32)


def cells(
    rng: np.random.Generator, size: int, spacing: float, jitter: float = 0.9
) -> tuple[Field, Field, NDArray[np.int32]]:
    """Make Voronoi cells of jittered grid points, about ``spacing`` pixels apart.

    Returns:
        Distance to the nearest point in units of ``spacing``, an edge field (0 on the border between two cells,
        1 well inside a cell), and the index of each pixel's cell.
    """
    count = int(np.ceil(size / spacing)) + 4
    iy, ix = np.mgrid[:count, :count]
    points_y = (iy - 2 + 0.5 + jitter * (rng.random(iy.shape) - 0.5)) * spacing
    points_x = (ix - 2 + 0.5 + jitter * (rng.random(ix.shape) - 0.5)) * spacing
    y, x = np.mgrid[:size, :size].astype(np.float32)
    row, column = (y // spacing).astype(np.int32) + 2, (x // spacing).astype(np.int32) + 2
    first = np.full((size, size), np.inf, np.float32)
    second = first.copy()
    index = np.zeros((size, size), np.int32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            r, c = row + dy, column + dx
            distance = np.hypot(points_y[r, c] - y, points_x[r, c] - x).astype(np.float32)
            closer = distance < first
            second = np.where(closer, first, np.minimum(second, distance))
            index = np.where(closer, r * count + c, index)
            first = np.where(closer, distance, first)
    return first / spacing, np.clip((second - first) / spacing * 2, 0, 1), index


def values_of(rng: np.random.Generator, index: NDArray[np.int32]) -> Field:
    """Return one random value in [0, 1] for every cell index."""
    return rng.random(int(index.max()) + 1, dtype=np.float32)[index]


def strokes(
    rng: np.random.Generator, size: int, count: int, length: float, angle: float, spread: float, width: int = 1
) -> Field:
    """Draw ``count`` short strokes around ``angle`` over each other, each with its own brightness."""
    canvas = np.full((size, size), 0.25, np.float32)
    start = rng.uniform(-10, size + 10, (count, 2))
    turn = rng.normal(angle, spread, count)
    reach = length * rng.uniform(0.5, 1.5, count)
    end = start + np.stack([np.cos(turn), np.sin(turn)], 1) * reach[:, None]
    for a, b, value in zip(start, end, rng.random(count), strict=True):
        cv2.line(canvas, tuple(map(int, a)), tuple(map(int, b)), float(value), width, cv2.LINE_AA)
    return canvas
