# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Shapes that painted defects are made of, as fields over the pixels of an image.

A blob is a closed contour whose radius is a short Fourier series of the angle; a stroke is the neighborhood of a
random walk. None of them is made of Perlin noise, which the pseudo-anomalies of training are made of.

Points are ``(y, x)`` in pixels; random numbers come from :class:`numpy.random.RandomState`, whose stream numpy
promises never to change.
"""

from dataclasses import dataclass

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
    """Draw a closed contour around a center.

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
    """Measure the distance to the edge of a convex polygon.

    Args:
        shape: Height and width of the field.
        corners: Corners (y, x), counter-clockwise or clockwise, shape (n, 2).

    Returns:
        Distance in pixels to the nearest edge's line, positive inside, shape (height, width).
    """
    y, x = np.indices(shape, dtype=np.float64)
    center = corners.mean(axis=0)
    inside = np.full(shape, np.inf)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        normal = np.array([end[1] - start[1], start[0] - end[0]])
        normal = normal / np.hypot(*normal)
        normal = normal if (center - start) @ normal > 0 else -normal
        inside = np.minimum(inside, (y - start[0]) * normal[0] + (x - start[1]) * normal[1])
    return inside


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
    """Walk from ``start`` in steps of one pixel.

    Args:
        start: First point (y, x).
        heading: First direction in radians; 0 points down.
        length: Number of steps.
        rng: Source of the turns.
        wobble: Standard deviation of the turn at every step, in radians, around the first direction.
        kink: Size of the sudden turns that a twelfth of the steps take, in radians.

    Returns:
        Points of the walk, shape (length, 2).
    """
    steps = max(int(length), 2)
    turns = wobble * rng.standard_normal(steps) + kink * rng.standard_normal(steps) * (rng.uniform(size=steps) < 1 / 12)
    direction = np.empty(steps)
    drift = 0.0
    for i, turn in enumerate(turns):
        drift = 0.94 * drift + turn
        direction[i] = heading + drift
    return np.asarray(start) + np.cumsum(np.stack([np.cos(direction), np.sin(direction)], axis=1), axis=0)


@dataclass(frozen=True)
class Stroke:
    """The neighborhood of a line.

    Attributes:
        distance: Distance of every pixel to the line in pixels, shape (height, width).
        side: The same with a sign: positive on the line's left, shape (height, width).
        progress: Position in [0, 1] of the line's nearest point between its start and its end, shape (height, width).
    """

    distance: Field
    side: Field
    progress: Field


def stroke(shape: tuple[int, int], points: Field) -> Stroke:
    """Measure the pixels against a line given by its points, shape (n, 2), which lie about a pixel apart."""
    grid = np.moveaxis(np.indices(shape, dtype=np.float64), 0, -1).reshape(-1, 2)
    distance, nearest = KDTree(points).query(grid)  # shape = [height * width]
    tangent = np.gradient(points, axis=0)[nearest]
    offset = grid - points[nearest]
    cross = offset[:, 0] * tangent[:, 1] - offset[:, 1] * tangent[:, 0]
    return Stroke(
        distance=distance.reshape(shape),
        side=(np.sign(cross) * distance).reshape(shape),
        progress=(nearest / (len(points) - 1)).reshape(shape),
    )
