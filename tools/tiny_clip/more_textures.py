# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""More procedural textures (see ``textures``) and the table of all of them."""

from collections.abc import Callable

import cv2
import numpy as np

from . import textures as base
from .fields import Field, axes, cells, grain, noise, octaves, strokes, values_of, wave

Rng = np.random.Generator


def rust(rng: Rng, size: int) -> Field:
    """Draw patchy corrosion over a plain ground."""
    patches = np.clip((octaves(rng, size, 4, 100, 0.7) - rng.uniform(0.35, 0.5)) * 4, 0, 1)
    return np.clip(0.8 - 0.6 * patches + 0.5 * (grain(rng, size, 0.9) - 0.5), 0, 1)


def fur(rng: Rng, size: int) -> Field:
    """Draw long thin hairs that follow one direction."""
    field = strokes(rng, size, 3200, rng.uniform(25, 60), rng.uniform(0, np.pi), rng.uniform(0.05, 0.3))
    return np.clip(0.8 * field + 0.3 * octaves(rng, size, 3, 12), 0, 1)


def honeycomb(rng: Rng, size: int) -> Field:
    """Draw regular hexagons with thin walls."""
    u, v = axes(rng, size)
    pitch = rng.uniform(12, 48)
    turns = [(np.cos(a) * u + np.sin(a) * v) / pitch for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    hexagons = sum(np.cos(2 * np.pi * t) for t in turns) / 3
    walls = np.clip((hexagons + rng.uniform(0.1, 0.3)) * 4, 0, 1).astype(np.float32)
    walls = walls if rng.random() < 0.5 else 1 - walls
    return np.clip(0.15 + 0.7 * walls + 0.25 * (grain(rng, size, 1) - 0.5), 0, 1)


def stripes(rng: Rng, size: int) -> Field:
    """Draw parallel stripes, soft or hard."""
    u, _ = axes(rng, size, warp=rng.uniform(0, 8))
    field = np.clip(0.5 + (wave(u / rng.uniform(6, 50)) - 0.5) * rng.uniform(0.8, 6), 0, 1)
    return np.clip(0.1 + 0.75 * field + 0.3 * (grain(rng, size, 1) - 0.5), 0, 1)


def checkerboard(rng: Rng, size: int) -> Field:
    """Draw alternating squares."""
    u, v = axes(rng, size)
    pitch = rng.uniform(8, 45)
    squares = ((np.floor(u / pitch) + np.floor(v / pitch)) % 2).astype(np.float32)
    return np.clip(0.1 + 0.75 * cv2.GaussianBlur(squares, (0, 0), 0.8) + 0.25 * (grain(rng, size, 1) - 0.5), 0, 1)


def perforated(rng: Rng, size: int) -> Field:
    """Draw a sheet with regular round holes."""
    u, v = axes(rng, size)
    pitch = rng.uniform(10, 40)
    row = np.floor(v / pitch)
    distance = np.hypot(v / pitch - row - 0.5, (u / pitch + 0.5 * (row % 2)) % 1 - 0.5)
    holes = np.clip((rng.uniform(0.25, 0.38) - distance) * 8, 0, 1)
    return np.clip(0.75 - 0.65 * holes + 0.3 * (grain(rng, size, 0.6, 4) - 0.5), 0, 1).astype(np.float32)


def clouds(rng: Rng, size: int) -> Field:
    """Draw soft noise of several octaves."""
    return octaves(rng, size, rng.uniform(2, 4), rng.uniform(16, 60), rng.uniform(0.4, 0.6))


def water(rng: Rng, size: int) -> Field:
    """Draw interfering ripples."""
    total = np.zeros((size, size), np.float32)
    for _ in range(4):
        u, _ = axes(rng, size, warp=25)
        total += wave(u / rng.uniform(10, 50)) - 0.5
    return np.clip(0.5 + 0.35 * total, 0, 1)


def foam(rng: Rng, size: int) -> Field:
    """Draw bubbles of random size with bright walls."""
    distance, edge, _ = cells(rng, size, rng.uniform(8, 32))
    return np.clip(
        0.9 - 0.7 * np.clip(edge * 1.5, 0, 1) * (1 - 0.5 * distance) + 0.2 * (grain(rng, size, 1) - 0.5), 0, 1
    )


def shingles(rng: Rng, size: int) -> Field:
    """Draw overlapping rounded scales, each shaded toward its root."""
    u, v = axes(rng, size, max_angle=0.1)
    pitch = rng.uniform(14, 44)
    row = np.floor(v / pitch)
    x = (u / pitch + 0.5 * (row % 2)) % 1 - 0.5
    depth = v / pitch - row - 0.5 * np.sqrt(np.clip(1 - 4 * x**2, 0, 1))
    return np.clip(0.3 + 0.5 * (depth % 1) + 0.3 * (grain(rng, size, 1.2) - 0.5), 0, 1).astype(np.float32)


def knit(rng: Rng, size: int) -> Field:
    """Draw columns of V-shaped stitches."""
    u, v = axes(rng, size, max_angle=0.4, warp=rng.uniform(0, 6))
    pitch = rng.uniform(8, 24)
    slope = np.abs(u / pitch % 1 - 0.5)
    return np.clip(
        0.15 + 0.6 * wave(v / pitch * 1.3 - slope * 1.5) * wave(u / pitch) ** 0.3 + 0.3 * (grain(rng, size, 0.8) - 0.5),
        0,
        1,
    )


def bark(rng: Rng, size: int) -> Field:
    """Draw deep, roughly upright furrows."""
    u, _ = axes(rng, size, max_angle=0.2, warp=rng.uniform(40, 90))
    ridges = wave(u / rng.uniform(12, 35) + 0.8 * octaves(rng, size, 5, 40))
    return np.clip(0.1 + 0.6 * ridges**0.6 + 0.5 * (grain(rng, size, 3, 0.8) - 0.5), 0, 1)


def terrazzo(rng: Rng, size: int) -> Field:
    """Draw scattered chips of different brightness in a plain ground."""
    _, edge, index = cells(rng, size, rng.uniform(12, 36))
    chips = (edge > rng.uniform(0.25, 0.6)) & (values_of(rng, index) > 0.4)
    soft = cv2.GaussianBlur(chips.astype(np.float32), (0, 0), 0.8)
    return np.clip(0.7 + soft * (values_of(rng, index) - 0.75) + 0.15 * (grain(rng, size, 1) - 0.5), 0, 1)


def soil(rng: Rng, size: int) -> Field:
    """Draw crumbs of many sizes."""
    return np.clip(0.4 + 0.8 * (octaves(rng, size, 10, 160, 0.9) - 0.5) + 0.5 * (grain(rng, size, 1.2) - 0.5), 0, 1)


def herringbone(rng: Rng, size: int) -> Field:
    """Draw zigzag bands."""
    u, v = axes(rng, size, max_angle=0.5)
    pitch = rng.uniform(16, 60)
    zigzag = v + np.abs(u / pitch % 1 - 0.5) * pitch * rng.uniform(0.8, 2)
    return np.clip(0.2 + 0.55 * wave(zigzag / rng.uniform(6, 18)) + 0.3 * (grain(rng, size, 0.8) - 0.5), 0, 1)


def cork(rng: Rng, size: int) -> Field:
    """Draw irregular light grains with dark inclusions."""
    _, edge, index = cells(rng, size, rng.uniform(6, 16), 1.0)
    return np.clip(
        0.35 + 0.4 * values_of(rng, index) * np.clip(edge * 3, 0.3, 1) - 0.3 * (noise(rng, size, 30) > 0.8), 0, 1
    )


def asphalt(rng: Rng, size: int) -> Field:
    """Draw dark ground with small bright stones."""
    stones = cv2.GaussianBlur((grain(rng, size, rng.uniform(1, 2.2)) > 0.68).astype(np.float32), (0, 0), 0.6)
    return np.clip(0.25 + 0.6 * stones * noise(rng, size, 60) + 0.4 * (grain(rng, size, 0.7) - 0.5), 0, 1)


TEXTURES: dict[str, Callable[[Rng, int], Field]] = {
    painter.__name__: painter
    for painter in (
        base.brick, base.tile, base.grass, base.gravel, base.carpet, base.grid, base.leather, base.wood, base.metal,
        base.stone, base.marble, base.fabric, base.denim, base.concrete, base.sand, base.plaster, base.paper,
        base.plastic, base.ceramic, rust, fur, honeycomb, stripes, checkerboard, perforated, clouds, water, foam,
        shingles, knit, bark, terrazzo, soil, herringbone, cork, asphalt,
    )
}  # fmt: skip
"""Painter of every texture, by the word that names it."""
