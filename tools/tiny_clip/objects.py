# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Procedural objects: a silhouette and a relief, seen from above on a plain ground.

A painter takes ``(rng, size)`` and returns two float32 fields of shape (size, size) in [0, 1]: the silhouette (1
inside) and the relief (brightness inside it).
"""

from collections.abc import Callable

import cv2
import numpy as np

from .fields import Field, wave

Rng = np.random.Generator
Parts = tuple[Field, Field]


def _polar(rng: Rng, size: int) -> tuple[Field, Field]:
    """Return radius in units of half the image and angle, around a slightly moved center."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    cy, cx = size * rng.uniform(0.46, 0.54, 2)
    return (np.hypot(y - cy, x - cx) / (size / 2)).astype(np.float32), np.arctan2(y - cy, x - cx).astype(np.float32)


def _turned(rng: Rng, size: int) -> tuple[Field, Field]:
    """Return coordinates along and across a randomly turned axis, in units of half the image."""
    radius, angle = _polar(rng, size)
    turn = rng.uniform(0, np.pi)
    return radius * np.cos(angle - turn), radius * np.sin(angle - turn)


def _inside(distance: Field, softness: float = 60.0) -> Field:
    """Return 1 where the signed ``distance`` (units of half the image) is positive, with an antialiased edge."""
    return np.clip(0.5 + distance * softness, 0, 1).astype(np.float32)


def bottle(rng: Rng, size: int) -> Parts:
    """Draw a bottle from above: concentric rings around a dark mouth."""
    radius, _ = _polar(rng, size)
    outer = rng.uniform(0.7, 0.92)
    rings = 0.35 + 0.5 * wave(radius * rng.uniform(1.5, 3.5))
    return _inside(outer - radius), rings * _inside(radius - outer * rng.uniform(0.25, 0.5))


def cable(rng: Rng, size: int) -> Parts:
    """Draw a cut cable: three stranded wires in one sheath."""
    radius, angle = _polar(rng, size)
    outer, turn = rng.uniform(0.75, 0.92), rng.uniform(0, 2 * np.pi)
    relief = np.full_like(radius, rng.uniform(0.1, 0.9))
    for k in range(3):
        a = turn + k * 2 * np.pi / 3
        y, x = radius * np.sin(angle) - 0.4 * np.sin(a), radius * np.cos(angle) - 0.4 * np.cos(a)
        wire = _inside(0.3 - np.hypot(y, x))
        strands = 0.4 + 0.6 * wave(x * 9) * wave(y * 9)
        relief = relief * (1 - wire) + wire * np.where(np.hypot(y, x) < 0.2, strands, rng.uniform(0.1, 0.9))
    return _inside(outer - radius), relief.astype(np.float32)


def capsule(rng: Rng, size: int) -> Parts:
    """Draw a two-part capsule."""
    u, v = _turned(rng, size)
    half, thick = rng.uniform(0.45, 0.6), rng.uniform(0.22, 0.34)
    distance = thick - np.hypot(np.maximum(np.abs(u) - half, 0), v)
    halves = np.where(u > rng.uniform(-0.1, 0.1), rng.uniform(0.1, 0.5), rng.uniform(0.5, 1))
    return _inside(distance), np.clip(halves + 0.4 * (0.5 - np.abs(v) / thick), 0, 1).astype(np.float32)


def pill(rng: Rng, size: int) -> Parts:
    """Draw an oval tablet with a score line."""
    u, v = _turned(rng, size)
    a, b = rng.uniform(0.6, 0.85), rng.uniform(0.4, 0.6)
    radius = np.hypot(u / a, v / b)
    score = 0.3 * np.exp(-((u / 0.03) ** 2))
    return _inside((1 - radius) * b), np.clip(0.95 - 0.35 * radius**3 - score, 0, 1).astype(np.float32)


def ring(rng: Rng, size: int) -> Parts:
    """Draw a flat ring."""
    radius, _ = _polar(rng, size)
    outer, inner = rng.uniform(0.7, 0.92), rng.uniform(0.3, 0.55)
    distance = np.minimum(outer - radius, radius - inner)
    return _inside(distance), np.clip(0.4 + 2.5 * distance, 0, 1).astype(np.float32)


def nut(rng: Rng, size: int) -> Parts:
    """Draw a hexagonal nut with its hole."""
    radius, angle = _polar(rng, size)
    sector = (angle + rng.uniform(0, np.pi)) % (np.pi / 3) - np.pi / 6
    outer, inner = rng.uniform(0.65, 0.8), rng.uniform(0.25, 0.4)
    distance = np.minimum(outer - radius * np.cos(sector), radius - inner)
    thread = 0.25 * wave(radius * rng.uniform(8, 16))
    return _inside(distance), np.clip(0.45 + distance + thread, 0, 1).astype(np.float32)


def gear(rng: Rng, size: int) -> Parts:
    """Draw a toothed wheel."""
    radius, angle = _polar(rng, size)
    teeth = int(rng.integers(8, 20))
    rim = rng.uniform(0.65, 0.8) + 0.08 * np.clip(3 * np.cos(teeth * angle), -1, 1)
    distance = np.minimum(rim - radius, radius - rng.uniform(0.12, 0.25))
    return _inside(distance), np.clip(0.5 + 0.4 * wave(radius * 3) - 0.2 * radius, 0, 1).astype(np.float32)


def screw(rng: Rng, size: int) -> Parts:
    """Draw a screw lying on its side: a head and a threaded shaft."""
    u, v = _turned(rng, size)
    head = np.minimum(0.17 - np.abs(u + 0.68), rng.uniform(0.26, 0.36) - np.abs(v))
    thread = 0.03 * np.cos(2 * np.pi * (u * rng.uniform(8, 14) + v))
    shaft = np.minimum(0.14 + thread - np.abs(v) - 0.1 * np.clip(u - 0.5, 0, 1), 0.66 - np.abs(u - 0.1))
    light = 0.55 + 8 * thread * (u > -0.5) - 0.8 * v
    return _inside(np.maximum(head, shaft)), np.clip(light, 0, 1).astype(np.float32)


def button(rng: Rng, size: int) -> Parts:
    """Draw a round button with four holes."""
    radius, angle = _polar(rng, size)
    outer, turn = rng.uniform(0.65, 0.9), rng.uniform(0, np.pi)
    distance = outer - radius
    for k in range(4):
        a = turn + k * np.pi / 2
        hole = np.hypot(radius * np.sin(angle) - 0.22 * np.sin(a), radius * np.cos(angle) - 0.22 * np.cos(a))
        distance = np.minimum(distance, hole - 0.09)
    return _inside(distance), np.clip(0.7 - 0.35 * np.exp(-(((radius - outer * 0.8) / 0.05) ** 2)), 0, 1)


def coin(rng: Rng, size: int) -> Parts:
    """Draw a coin: raised rim and a simple star relief."""
    radius, angle = _polar(rng, size)
    outer = rng.uniform(0.7, 0.9)
    star = 0.3 * _inside(0.35 + 0.12 * np.cos(int(rng.integers(4, 9)) * angle) - radius, 20)
    rim = 0.35 * (radius > outer - 0.1)
    return _inside(outer - radius), np.clip(0.35 + star + rim + 0.2 * np.cos(angle), 0, 1).astype(np.float32)


def board(rng: Rng, size: int) -> Parts:
    """Draw a rectangular circuit board: tracks, pads and a few chips."""
    u, v = _turned(rng, size)
    distance = np.minimum(rng.uniform(0.6, 0.68) - np.abs(u), rng.uniform(0.45, 0.6) - np.abs(v))
    relief = 0.35 + 0.25 * (wave(v * rng.uniform(6, 14)) > 0.8)
    for _ in range(int(rng.integers(3, 8))):
        cu, cv = rng.uniform(-0.45, 0.45), rng.uniform(-0.35, 0.35)
        chip = (np.abs(u - cu) < rng.uniform(0.05, 0.18)) & (np.abs(v - cv) < rng.uniform(0.04, 0.12))
        relief = np.where(chip, rng.choice([0.05, 0.95]), relief)
    return _inside(distance), cv2.GaussianBlur(relief.astype(np.float32), (0, 0), 0.8)


OBJECTS: dict[str, Callable[[Rng, int], Parts]] = {
    painter.__name__: painter for painter in (bottle, cable, capsule, pill, ring, nut, gear, screw, button, coin, board)
}
"""Painter of every object, by the word that names it."""
