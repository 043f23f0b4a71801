# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Shapes of defects: soft masks, drawn once and pasted everywhere.

A painter takes ``(rng, size)`` and returns one float32 field of shape (size, size) in [0, 1]: how strongly each pixel
is changed. What it is changed to is decided in ``damage``.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from .fields import Field, noise

Rng = np.random.Generator


def _walk(rng: Rng, size: int, steps: int, wobble: float, drift: float = 0.0) -> NDArray[np.int32]:
    """Walk at random across the image; ``wobble`` is the spread of the turns."""
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(drift, wobble, steps))
    stride = size * rng.uniform(0.2, 0.9) / steps
    path = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1) * stride, 0)
    return (path - path.mean(0) + size / 2 + rng.normal(0, size / 8, 2)).astype(np.int32)


def _soften(rng: Rng, mask: Field, most: float) -> Field:
    sigma = rng.uniform(0.3, most)
    return np.clip(cv2.GaussianBlur(mask, (0, 0), sigma), 0, 1)


def scratch(rng: Rng, size: int) -> Field:
    """Draw one to three long smooth lines."""
    mask = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        points = _walk(rng, size, 24, 0.04, rng.normal(0, 0.03))
        cv2.polylines(mask, [points], False, 1.0, int(rng.integers(1, 5)), cv2.LINE_AA)
    return _soften(rng, mask, 1.0)


def crack(rng: Rng, size: int) -> Field:
    """Draw a jagged line with branches."""
    mask = np.zeros((size, size), np.float32)
    trunk = _walk(rng, size, 20, 0.6)
    width = int(rng.integers(1, 4))
    cv2.polylines(mask, [trunk], False, 1.0, width, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 4))):
        branch = _walk(rng, size // 2, 10, 0.6)
        branch = branch - branch[0] + trunk[rng.integers(len(trunk))]
        cv2.polylines(mask, [branch.astype(np.int32)], False, 1.0, max(width - 1, 1), cv2.LINE_AA)
    return _soften(rng, mask, 0.9)


def hole(rng: Rng, size: int) -> Field:
    """Draw one or two filled ellipses."""
    mask = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        center = tuple(map(int, rng.uniform(0.3, 0.7, 2) * size))
        radii = tuple(map(int, size * rng.uniform(0.04, 0.2, 2) + 1))
        cv2.ellipse(mask, center, radii, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    return _soften(rng, mask, 1.5)


def spot(rng: Rng, size: int) -> Field:
    """Draw several small dots."""
    mask = np.zeros((size, size), np.float32)
    middle, spread = rng.uniform(0.3, 0.7, 2) * size, size * rng.uniform(0.05, 0.25)
    for _ in range(int(rng.integers(2, 14))):
        center = tuple(map(int, rng.normal(middle, spread)))
        cv2.circle(mask, center, int(rng.integers(2, 7)), rng.uniform(0.6, 1.0), -1, cv2.LINE_AA)
    return _soften(rng, mask, 1.2)


def stain(rng: Rng, size: int) -> Field:
    """Draw a blob with an uneven, soft edge."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    radius = np.hypot(x * rng.uniform(0.7, 1.4), y * rng.uniform(0.7, 1.4)) + 0.35 * (
        noise(rng, size, rng.uniform(3, 9)) - 0.5
    )
    return np.clip((rng.uniform(0.12, 0.3) - radius) * rng.uniform(5, 30), 0, 1).astype(np.float32)


def cut(rng: Rng, size: int) -> Field:
    """Draw a random polygon with sharp corners."""
    mask = np.zeros((size, size), np.float32)
    corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
    reach = size * rng.uniform(0.06, 0.3, len(corners))
    points = size / 2 + np.stack([np.cos(corners), np.sin(corners)], 1) * reach[:, None]
    cv2.fillPoly(mask, [points.astype(np.int32)], 1.0, cv2.LINE_AA)
    return _soften(rng, mask, 1.0)


def fray(rng: Rng, size: int) -> Field:
    """Draw a ragged band of short fibers."""
    mask = np.zeros((size, size), np.float32)
    path = _walk(rng, size, 40, 0.08)
    side = rng.uniform(0, 2 * np.pi)
    for point in path:
        angle, reach = side + rng.normal(0, 0.5), size * rng.uniform(0.03, 0.14)
        end = point + reach * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(mask, tuple(map(int, point)), tuple(map(int, end)), 1.0, int(rng.integers(1, 3)), cv2.LINE_AA)
    return _soften(rng, mask, 0.9)


def dent(rng: Rng, size: int) -> Field:
    """Draw a broad bump that fades outward."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    a, b, turn = rng.uniform(0.06, 0.2), rng.uniform(0.06, 0.2), rng.uniform(0, np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
    return np.exp(-(((u / a) ** 2 + (v / b) ** 2) ** rng.uniform(0.7, 2))).astype(np.float32)


MARKS: dict[str, Callable[[Rng, int], Field]] = {
    painter.__name__: painter for painter in (scratch, crack, hole, spot, stain, cut, fray, dent)
}
"""Painter of every shape of defect, by the word that names it."""


def mark_library(count: int, seed: int, size: int = 128) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw ``count`` marks.

    Returns:
        Masks (uint8, shape (count, size, size), 255 where a pixel is wholly changed) and their indices into ``MARKS``.
    """
    kinds = np.arange(count) % len(MARKS)
    painters = list(MARKS.values())
    masks = np.zeros((count, size, size), np.uint8)
    for i, kind in enumerate(kinds):
        masks[i] = 255 * painters[kind](np.random.default_rng((seed, 1, i)), size)
    return masks, kinds.astype(np.int64)
