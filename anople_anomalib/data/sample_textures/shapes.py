# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Shapes that painted defects are made of, as fields over the pixels of an image.

None of them is made of Perlin noise, which the pseudo-anomalies of training are made of. Points are ``(y, x)`` in
pixels; random numbers come from :class:`numpy.random.RandomState`, whose stream numpy promises never to change.
"""

from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Field = NDArray[np.float64]
"""Array of shape (height, width)."""


def smooth_noise(shape: tuple[int, int], sigma: float, rng: RandomState) -> Field:
    """Blur white noise by a Gaussian, to mean 0 and standard deviation 1, shape (height, width)."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return (noise - noise.mean()) / noise.std()


def ramp(field: Field, width: float) -> Field:
    """Return an opacity that rises from 0 at ``field == 0`` to 1 at ``field == width``, smoothly at both ends."""
    step = np.clip(field / width, 0.0, 1.0)
    return step * step * (3.0 - 2.0 * step)


def blob(
    shape: tuple[int, int],
    center: tuple[float, float],
    radius: float,
    rng: RandomState,
    roughness: float = 0.25,
    harmonics: int = 7,
    elongation: float = 1.0,
) -> Field:
    """Draw a closed contour, whose radius is a short Fourier series of the angle.

    Args:
        shape: Height and width of the field.
        center: Center (y, x) in pixels.
        radius: Mean radius in pixels.
        rng: Source of the contour.
        roughness: Relative size of the contour's deviation from an ellipse.
        harmonics: Number of Fourier terms: few give a smooth contour, many a jagged one.
        elongation: Ratio of the ellipse's axes.

    Returns:
        About the distance to the contour in pixels, positive inside, shape (height, width).
    """
    turn = rng.uniform(0, np.pi)
    orders = np.arange(2, 2 + harmonics)
    amplitudes = rng.standard_normal(harmonics) / orders**1.2
    phases = rng.uniform(0, 2 * np.pi, harmonics)
    y, x = np.indices(shape, dtype=np.float64)
    y, x = y - center[0], x - center[1]
    along = (np.cos(turn) * y + np.sin(turn) * x) / np.sqrt(elongation)
    across = (np.cos(turn) * x - np.sin(turn) * y) * np.sqrt(elongation)
    angle = np.arctan2(across, along)
    waves = np.cos(angle[..., None] * orders + phases) @ amplitudes  # shape = [height, width]
    return radius * np.maximum(1.0 + roughness * waves, 0.2) - np.hypot(along, across)


def polygon(shape: tuple[int, int], corners: Field) -> Field:
    """Return the distance to the nearest edge's line of a convex polygon, positive inside; corners of shape (n, 2)."""
    edges = np.roll(corners, -1, axis=0) - corners
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1) / np.hypot(*edges.T)[:, None]
    normals *= np.sign(((corners.mean(axis=0) - corners) * normals).sum(axis=1, keepdims=True))  # inward
    offsets = np.indices(shape)[None] - corners[:, :, None, None]  # shape = [n, 2, height, width]
    return (offsets * normals[:, :, None, None]).sum(axis=1).min(axis=0)


def ring(center: tuple[float, float], radius: float, corners: int, rng: RandomState, elongation: float = 1.0) -> Field:
    """Return the corners of an irregular convex polygon, on an ellipse around ``center``, shape (corners, 2)."""
    angles = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) / corners
    turn = rng.uniform(0, np.pi)
    along, across = np.cos(angles) * np.sqrt(elongation), np.sin(angles) / np.sqrt(elongation)
    y = np.cos(turn) * along - np.sin(turn) * across
    x = np.sin(turn) * along + np.cos(turn) * across
    return np.asarray(center) + radius * np.stack([y, x], axis=1)


def walk(
    start: tuple[float, float],
    heading: float,
    length: float,
    rng: RandomState,
    wobble: float = 0.1,
    kink: float = 0.0,
) -> Field:
    """Walk from a point (y, x) in steps of one pixel, shape (length, 2).

    Args:
        start: First point.
        heading: First direction in radians; 0 points down.
        length: Number of steps.
        rng: Source of the turns.
        wobble: Standard deviation of the turn at every step, in radians, around the first direction.
        kink: Size of the sudden turns that a twelfth of the steps take, in radians.
    """
    steps = max(int(length), 2)
    turns = wobble * rng.standard_normal(steps) + kink * rng.standard_normal(steps) * (rng.uniform(size=steps) < 1 / 12)
    direction = heading + np.array([*accumulate(turns, lambda drift, turn: 0.94 * drift + turn)])
    return np.asarray(start) + np.cumsum(np.stack([np.cos(direction), np.sin(direction)], axis=1), axis=0)


class Stroke(NamedTuple):
    """The neighborhood of a line, three fields of shape (height, width)."""

    distance: Field  # distance of every pixel to the line in pixels
    side: Field  # the same with a sign: positive on the line's left
    progress: Field  # position in [0, 1] of the line's nearest point between its start and its end


def stroke(shape: tuple[int, int], points: Field) -> Stroke:
    """Measure the pixels against a line given by its points, shape (n, 2), which lie about a pixel apart."""
    grid = np.moveaxis(np.indices(shape, dtype=np.float64), 0, -1)  # shape = [height, width, 2]
    distance, nearest = KDTree(points).query(grid)  # shape = [height, width]
    tangent = np.gradient(points, axis=0)[nearest]
    offset = grid - points[nearest]
    cross = offset[..., 0] * tangent[..., 1] - offset[..., 1] * tangent[..., 0]
    return Stroke(distance, np.sign(cross) * distance, nearest / (len(points) - 1))
