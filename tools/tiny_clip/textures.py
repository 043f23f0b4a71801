# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Procedural textures: each name is a word that the text tower learns.

A painter takes ``(rng, size)`` and returns a float32 field of shape (size, size) in [0, 1]; 0 takes the shade of the
texture's color, 1 its light. The parameters of every image are drawn anew, so that two images of one name differ
in scale, direction, contrast and regularity.
"""

import cv2
import numpy as np

from .fields import Field, axes, cells, grain, noise, octaves, rescale, strokes, values_of, wave

Rng = np.random.Generator


def brick(rng: Rng, size: int) -> Field:
    """Draw rows of bricks, every other row shifted, with lighter or darker mortar."""
    u, v = axes(rng, size, max_angle=0.06, warp=rng.uniform(0, 6))
    height = rng.uniform(14, 60)
    width, mortar = height * rng.uniform(1.6, 3.2), rng.uniform(0.05, 0.16)
    row = np.floor(v / height)
    x = u / width + 0.5 * (row % 2)
    inside = (np.abs(v / height - row - 0.5) < 0.5 - mortar) & (np.abs(x % 1 - 0.5) < 0.5 - mortar * height / width)
    index = (row - row.min()).astype(np.int32) * 97 + (np.floor(x) - np.floor(x).min()).astype(np.int32)
    face = 0.45 + 0.35 * values_of(rng, index) + 0.35 * (octaves(rng, size, 20, 160) - 0.5)
    joint = rng.choice([0.05, 0.95]) + 0.2 * (grain(rng, size, 1) - 0.5)
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), rng.uniform(0.5, 1.8))
    return np.clip(face * soft + joint * (1 - soft), 0, 1)


def tile(rng: Rng, size: int) -> Field:
    """Draw square ceramic tiles with grout."""
    u, v = axes(rng, size, max_angle=0.06)
    side, grout = rng.uniform(28, 110), rng.uniform(0.02, 0.07)
    inside = (np.abs(u / side % 1 - 0.5) < 0.5 - grout) & (np.abs(v / side % 1 - 0.5) < 0.5 - grout)
    index = (np.floor(u / side) + 60).astype(np.int32) * 131 + (np.floor(v / side) + 60).astype(np.int32)
    face = 0.7 + rng.uniform(0, 0.3) * (values_of(rng, index) - 0.5) + 0.25 * (octaves(rng, size, 3, 50) - 0.5)
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), rng.uniform(0.5, 1.5))
    return np.clip(face * soft + rng.choice([0.1, 1.0]) * (1 - soft), 0, 1)


def grass(rng: Rng, size: int) -> Field:
    """Draw many blades, mostly upright or mostly fallen."""
    field = strokes(
        rng, size, 2600, rng.uniform(10, 40), rng.uniform(0, np.pi), rng.uniform(0.25, 0.9), rng.integers(1, 3)
    )
    return np.clip(0.75 * field + 0.35 * octaves(rng, size, 4, 16), 0, 1)


def gravel(rng: Rng, size: int) -> Field:
    """Draw pebbles of different brightness with dark gaps, lit from one side."""
    distance, edge, index = cells(rng, size, rng.uniform(7, 30))
    height = np.sqrt(edge) * (1 - 0.4 * distance)
    light = rescale(
        cv2.filter2D(height, -1, np.array([[-1, -1, 0], [-1, 0, 1], [0, 1, 1]], np.float32) * rng.choice([-1, 1]))
    )
    stone = 0.25 + 0.6 * values_of(rng, index)
    return np.clip(stone * np.clip(edge * 4, 0.15, 1) + 0.5 * (light - 0.5) + 0.2 * (grain(rng, size, 1) - 0.5), 0, 1)


def carpet(rng: Rng, size: int) -> Field:
    """Draw dense tufts: band-passed grain with a faint row structure."""
    _, v = axes(rng, size)
    sigma = rng.uniform(0.8, 3)
    rows = wave(v / rng.uniform(4, 12))
    return np.clip(
        0.5 + 1.3 * (grain(rng, size, sigma) - 0.5) + 0.25 * (rows - 0.5) + 0.2 * (octaves(rng, size, 3, 12) - 0.5),
        0,
        1,
    )


def grid(rng: Rng, size: int) -> Field:
    """Draw a wire grid before a dark or light ground."""
    u, v = axes(rng, size, warp=rng.uniform(0, 3))
    pitch, wire = rng.uniform(10, 44), rng.uniform(0.12, 0.3)
    skew = rng.uniform(-0.5, 0.5)
    lines = np.maximum(wave((u + skew * v) / pitch), wave(v / pitch)) > 1 - wire
    soft = cv2.GaussianBlur(lines.astype(np.float32), (0, 0), rng.uniform(0.6, 1.5))
    soft = soft * (0.8 + 0.4 * (grain(rng, size, 1.5) - 0.5))
    return soft if rng.random() < 0.6 else 1 - soft


def leather(rng: Rng, size: int) -> Field:
    """Draw small wrinkled cells with soft dark creases."""
    spacing = rng.uniform(5, 18)
    _, edge, _ = cells(rng, size, spacing, 1.0)
    creases = cv2.GaussianBlur(np.clip(edge * 2, 0, 1), (0, 0), rng.uniform(0.8, 1.6))
    return np.clip(0.3 + rng.uniform(0.25, 0.5) * creases + 0.3 * (octaves(rng, size, 4, 60) - 0.5), 0, 1)


def wood(rng: Rng, size: int) -> Field:
    """Draw growth rings cut lengthwise, with fine fibers."""
    u, _ = axes(rng, size, max_angle=0.3, warp=rng.uniform(10, 60))
    rings = wave(u / rng.uniform(10, 50) + 0.6 * noise(rng, size, 3, 5))
    fibers = grain(rng, size, rng.uniform(8, 25), 0.6)
    field = 0.35 + 0.4 * rings ** rng.uniform(0.6, 2.5) + 0.45 * (fibers - 0.5)
    return np.clip(field if rng.random() < 0.5 else field.T, 0, 1)


def metal(rng: Rng, size: int) -> Field:
    """Draw brushed metal: fine parallel streaks and a broad sheen."""
    streaks = grain(rng, size, 0.5, rng.uniform(8, 60))
    sheen = noise(rng, size, 2, 3)
    field = 0.5 + rng.uniform(0.2, 0.9) * (streaks - 0.5) + rng.uniform(0.1, 0.5) * (sheen - 0.5)
    return np.clip(field if rng.random() < 0.5 else field.T, 0, 1)


def stone(rng: Rng, size: int) -> Field:
    """Draw granite-like speckles of several sizes."""
    speckles = grain(rng, size, rng.uniform(0.8, 2.5)) > rng.uniform(0.55, 0.7)
    soft = cv2.GaussianBlur(speckles.astype(np.float32), (0, 0), 0.7)
    return np.clip(0.55 - 0.4 * soft + 0.5 * (octaves(rng, size, 6, 160, 0.85) - 0.5), 0, 1)


def marble(rng: Rng, size: int) -> Field:
    """Draw thin veins in a bright, cloudy ground."""
    u, _ = axes(rng, size, warp=rng.uniform(60, 160))
    turbulence = octaves(rng, size, 4, 64)
    vein = 1 - np.abs(2 * wave(u / rng.uniform(60, 140) + 1.2 * turbulence) - 1)
    return np.clip(0.85 - 0.6 * vein ** rng.uniform(3, 8) + 0.3 * (turbulence - 0.5), 0, 1)


def fabric(rng: Rng, size: int) -> Field:
    """Draw a plain weave: alternating warp and weft threads."""
    u, v = axes(rng, size, warp=rng.uniform(0, 5))
    pitch = rng.uniform(5, 20)
    over = (np.floor(u / pitch) + np.floor(v / pitch)) % 2
    thread = np.where(over > 0, wave(v / pitch + 0.5), wave(u / pitch + 0.5))
    return np.clip(0.2 + 0.5 * thread + rng.uniform(0, 0.25) * over + 0.35 * (grain(rng, size, 0.7) - 0.5), 0, 1)


def denim(rng: Rng, size: int) -> Field:
    """Draw twill: diagonal ribs broken by light threads."""
    u, v = axes(rng, size, warp=rng.uniform(0, 4))
    pitch = rng.uniform(4, 12)
    ribs = wave((u + v) / pitch)
    return np.clip(0.25 + 0.45 * ribs * wave(u / pitch) + 0.6 * (grain(rng, size, 2.5, 0.6) - 0.5), 0, 1)


def concrete(rng: Rng, size: int) -> Field:
    """Draw low-contrast clouds, fine sand and a few pores."""
    pores = cv2.GaussianBlur((grain(rng, size, 1.6) > 0.94).astype(np.float32), (0, 0), 0.8)
    clouds = 0.4 * (octaves(rng, size, 3, 40) - 0.5)
    return np.clip(0.6 + clouds + rng.uniform(0.2, 0.5) * (grain(rng, size, 0.6) - 0.5) - 0.6 * pores, 0, 1)


def sand(rng: Rng, size: int) -> Field:
    """Draw fine bright grains with soft ripples."""
    _, v = axes(rng, size, warp=30)
    return np.clip(
        0.55 + 0.8 * (grain(rng, size, 0.6) - 0.5) + rng.uniform(0, 0.3) * (wave(v / rng.uniform(20, 60)) - 0.5), 0, 1
    )


def plaster(rng: Rng, size: int) -> Field:
    """Draw a rough white coat lit from one side."""
    height = octaves(rng, size, rng.uniform(8, 30), 130, 0.75)
    slope = height - np.roll(height, (int(rng.integers(1, 3)), int(rng.integers(1, 3))), (0, 1))
    return np.clip(0.65 + rng.uniform(1, 3) * slope, 0, 1)


def paper(rng: Rng, size: int) -> Field:
    """Draw a nearly flat surface with faint fibers."""
    return np.clip(
        0.85 + rng.uniform(0.05, 0.2) * (grain(rng, size, 0.8, 1.6) - 0.5) + 0.1 * (noise(rng, size, 3) - 0.5), 0, 1
    )


def plastic(rng: Rng, size: int) -> Field:
    """Draw a smooth, faintly molded surface with a broad highlight."""
    field = (
        0.55
        + rng.uniform(0.2, 0.6) * (noise(rng, size, 2) - 0.5)
        + rng.uniform(0.05, 0.25) * (grain(rng, size, 0.7) - 0.5)
    )
    return np.clip(field, 0, 1)


def ceramic(rng: Rng, size: int) -> Field:
    """Draw a smooth fired surface: mottling at a middle scale and fine grain."""
    mottled = octaves(rng, size, rng.uniform(5, 20), 120, rng.uniform(0.4, 0.9))
    return np.clip(
        0.5 + rng.uniform(0.1, 0.45) * (mottled - 0.5) + rng.uniform(0.05, 0.4) * (grain(rng, size, 0.6) - 0.5), 0, 1
    )
