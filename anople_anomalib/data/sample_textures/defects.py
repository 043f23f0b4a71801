# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Painted surface defects with exact masks.

A painter looks at a clean photograph and returns a :class:`Layer`. :func:`paint` lays it over the photograph; the mask
is where the layer is opaque at all: outside of it the damaged photograph equals the clean one, to the bit.

The light falls from the upper left, gray values are in [0, 1], and photographs have shape (height, width).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy import ndimage

from .shapes import Field, blob, polygon, ramp, ring, smooth_noise, stroke, walk

_LEAST_OPACITY = 0.12
"""Fainter parts of a layer are cut off: no eye would call them damaged."""
_LEAST_CONTRAST = 0.05
"""Mean change of the slightly blurred gray values inside the mask, below which a defect is painted anew."""
_AREA = (0.003, 0.2)
"""Smallest and largest share of the photograph that a defect covers."""
_LEAST_ISLAND = 12
"""Separate specks of fewer pixels are left out: they would count as regions of their own in per-region metrics."""
_ATTEMPTS = 50


class Layer(NamedTuple):
    """A defect's gray values, and how much of the photograph they hide, in [0, 1], both of shape (height, width)."""

    gray: Field
    opacity: Field


class Surface(NamedTuple):
    """A photograph to be damaged."""

    clean: Field  # its gray values
    filling: Field  # texture of the damaged spot, at least as high and as wide
    rng: RandomState  # source of position, size and form

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.clean.shape

    def noise(self, sigma: float) -> Field:
        """Return smooth noise of mean 0 and standard deviation 1."""
        return smooth_noise(self.shape, sigma, self.rng)

    def spot(self) -> tuple[float, float]:
        """Choose a place, a sixth of the photograph's size away from its border."""
        height, width = self.shape
        return self.rng.uniform(height / 6, 5 * height / 6), self.rng.uniform(width / 6, 5 * width / 6)

    def texture(self) -> Field:
        """Return the upper left part of the filling, of the photograph's shape."""
        return self.filling[: self.shape[0], : self.shape[1]]

    def puddle(self, radii: tuple[float, float], blobs: tuple[int, int]) -> Field:
        """Unite a few overlapping blobs: about the distance to the contour, positive inside."""
        center = np.asarray(self.spot())
        level = np.full(self.shape, -np.inf)
        for _ in range(self.rng.randint(*blobs)):
            radius = self.rng.uniform(*radii)
            level = np.maximum(level, blob(self.shape, tuple(center), radius, self.rng, roughness=0.35))
            center = center + radius * self.rng.uniform(-1.2, 1.2, 2)
        return ndimage.gaussian_filter(level, 1.5)


Painter = Callable[[Surface], Layer]


def paint(
    clean: Field, filling: Field, painter: Painter, rng: RandomState
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Damage a photograph.

    Args:
        clean: Gray values in [0, 1], multiples of 1/255, shape (height, width).
        filling: Texture for painters that need one, in [0, 1]; at least as high and as wide.
        painter: One of the painters of this module.
        rng: Source of position, size and form.

    Returns:
        The damaged photograph and its mask (0 or 255), both of shape (height, width).

    Raises:
        RuntimeError: If no attempt gives a visible defect of a sensible size.
    """
    for _ in range(_ATTEMPTS):
        gray, opacity = painter(Surface(clean, filling, rng))
        mask = _without_specks(opacity >= _LEAST_OPACITY)
        if not _AREA[0] <= mask.mean() <= _AREA[1]:
            continue
        damaged = clean * (1 - opacity) + np.clip(gray, 0.02, 0.98) * opacity
        if np.abs(ndimage.gaussian_filter((damaged - clean) * mask, 1.5))[mask].mean() < _LEAST_CONTRAST:
            continue
        pixels = np.where(mask, np.round(damaged * 255), np.round(clean * 255)).astype(np.uint8)
        return pixels, mask.astype(np.uint8) * np.uint8(255)
    msg = f"{painter.__name__} painted no visible defect of a sensible size in {_ATTEMPTS} attempts."
    raise RuntimeError(msg)


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Remove islands of few pixels."""
    islands, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return mask & (np.bincount(islands.ravel())[islands] >= _LEAST_ISLAND)


def crack(surface: Surface) -> Layer:
    """Paint a dark, branching crack: a kinked random walk with a bright edge on its lit side."""
    rng = surface.rng
    heading = rng.uniform(0, 2 * np.pi)
    main = walk(surface.spot(), heading, rng.uniform(0.35, 0.9) * surface.shape[0], rng, wobble=0.1, kink=0.7)
    opacity, gray = _crack_line(surface, main, rng.uniform(0.5, 1.2))
    for _ in range(rng.randint(0, 3)):
        root = rng.randint(len(main) // 5, 4 * len(main) // 5)
        turn = heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
        twig = walk(tuple(main[root]), turn, rng.uniform(0.1, 0.35) * len(main), rng, wobble=0.15, kink=0.9)
        twig_opacity, twig_gray = _crack_line(surface, twig, rng.uniform(0.4, 0.7))
        gray = np.where(twig_opacity > opacity, twig_gray, gray)
        opacity = np.maximum(opacity, twig_opacity)
    return Layer(gray, opacity)


def _crack_line(surface: Surface, points: Field, half_width: float) -> tuple[Field, Field]:
    """Return opacity and gray values of one line of a crack, which grows thinner towards its end."""
    line = stroke(surface.shape, points)
    width = half_width * (1.1 - line.progress**2) * (1 + 0.5 * surface.noise(3.0))
    depth = ramp(width + 0.9 - line.distance, 1.2)
    lit = ramp(1.8 + width - line.distance, 1.5) * (line.side * np.sign(_lit_side(points)) > 0)
    gray = np.where(depth > 0.25, surface.clean * 0.35 + 0.03, surface.clean * 1.15 + 0.04)
    return np.maximum(0.9 * depth, 0.3 * lit), gray


def _lit_side(points: Field) -> float:
    """Return a positive number if a line's lower right, where its edge catches the light, is on its left."""
    y, x = points[-1] - points[0]
    return float(x - y)


def hole(surface: Surface) -> Layer:
    """Paint a dark hole with a shadow under its upper left edge, a lit lower right wall and a chipped rim."""
    rng, shape = surface.rng, surface.shape
    radius = rng.uniform(5, 12)
    center = surface.spot()
    inside = blob(shape, center, radius, rng, roughness=0.18, elongation=rng.uniform(1.0, 1.4))
    rim = blob(shape, center, radius * rng.uniform(1.15, 1.4), rng, roughness=0.35, harmonics=10)
    y, x = np.indices(shape)
    light = ((y - center[0]) + (x - center[1])) / radius
    wall = 0.12 + 0.09 * np.clip(light, -1, 2) + 0.02 * surface.noise(1.0)
    broken = surface.clean.mean() * 1.2 + 0.06 * surface.noise(0.8) - 0.05 * light
    gray = np.where(inside > 0, wall, broken)
    return Layer(_photographed(gray), np.maximum(ramp(inside + 0.8, 1.6), 0.8 * ramp(rim, 2.0)))


def spall(surface: Surface) -> Layer:
    """Paint a chip broken off: fresh grain inside, a shadow under the upper left edge, a lit lower right one."""
    rng = surface.rng
    radius = rng.uniform(8, 18)
    center = surface.spot()
    elongation = rng.uniform(1.0, 1.8)
    inside = polygon(surface.shape, ring(center, radius, rng.randint(6, 10), rng, elongation))
    inside += 1.0 * surface.noise(1.2) + 0.8 * surface.noise(3.0)
    depth = np.clip(inside / 3.5, 0, 1) + 0.18 * surface.noise(2.0)
    down, right = np.gradient(ndimage.gaussian_filter(depth, 0.7))
    grain = surface.texture() - ndimage.gaussian_filter(surface.texture(), 4.0)
    gray = np.median(surface.clean) * rng.uniform(1.05, 1.3) + 0.3 * grain - 0.55 * (down + right)
    return Layer(_photographed(gray), ramp(inside + 0.6, 1.6))


def stain(surface: Surface) -> Layer:
    """Paint a dark liquid soaked in: soft, overlapping blobs that multiply the surface, perhaps with a tide edge."""
    rng = surface.rng
    level = surface.puddle(radii=(6, 20), blobs=(3, 9)) + 1.2 * surface.noise(2.5)
    softness = rng.uniform(3, 8)
    strength = rng.uniform(0.3, 0.55)
    uneven = 1 + 0.2 * surface.noise(5.0)
    tide = rng.choice([0.0, 0.12]) * np.exp(-(((level - softness) / 3.0) ** 2))
    return Layer(surface.clean * np.clip(1 - strength * uneven - tide, 0.1, 1), ramp(level + 1, softness))


def bloom(surface: Surface) -> Layer:
    """Paint a pale deposit (efflorescence, lime, mildew): speckled blobs that whiten the surface, hide its texture."""
    rng = surface.rng
    level = surface.puddle(radii=(7, 20), blobs=(3, 7))
    speckles = surface.noise(1.0) + 0.8 * surface.noise(3.0)
    cover = ramp(level + 3 * speckles, rng.uniform(8, 14))
    gray = max(rng.uniform(0.62, 0.78), surface.clean.mean() + 0.32) + 0.03 * surface.noise(0.7)
    return Layer(gray, rng.uniform(0.65, 0.9) * cover)


def thread(surface: Surface) -> Layer:
    """Paint a wire, cable or fiber that lies on the surface: a round, twisted strand with a shadow beside it."""
    rng, clean = surface.rng, surface.clean
    points = walk(surface.spot(), rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0) * len(clean), rng, wobble=0.12)
    points = ndimage.gaussian_filter1d(points, 4.0, axis=0, mode="nearest")
    half_width = rng.uniform(1.2, 2.4)
    line, shadow = stroke(clean.shape, points), stroke(clean.shape, points + half_width)
    across = np.clip(line.side * np.sign(_lit_side(points)) / half_width, -1, 1)
    twist = 0.05 * np.sin(line.progress * len(points) / rng.uniform(1.0, 2.0) + 2 * across)
    base = rng.choice([rng.uniform(0.1, 0.2), rng.uniform(0.75, 0.9)])
    strand = base * (1 - 0.35 * across**2) - 0.12 * across + twist
    body = ramp(half_width + 0.7 - line.distance, 1.4)
    shade = 0.45 * ramp(half_width + 1.0 - shadow.distance, 2.0)
    return Layer(np.where(body > 0.3, strand, clean * 0.35), np.maximum(body, shade))


def litter(surface: Surface) -> Layer:
    """Paint a scrap of paper or foil: a polygon of folded facets, with a shadow under its lower right edge."""
    rng, shape = surface.rng, surface.shape
    center, radius = surface.spot(), rng.uniform(9, 22)
    corners = ring(center, radius, rng.randint(4, 7), rng, elongation=rng.uniform(1.0, 2.0))
    ragged = 0.5 * surface.noise(1.5)
    inside = polygon(shape, corners) + ragged
    shadow = polygon(shape, corners + rng.uniform(1.5, 3.0)) + ragged
    gray = np.full(shape, rng.uniform(0.75, 0.9))
    y, x = np.indices(shape)
    for _ in range(rng.randint(1, 4)):
        turn, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4) * radius
        fold = np.cos(turn) * (y - center[0]) + np.sin(turn) * (x - center[1]) - offset
        gray += rng.uniform(0.03, 0.1) * np.tanh(fold) - 0.08 * np.exp(-((fold / 0.8) ** 2))
    gray += 0.015 * surface.noise(0.7) + 0.04 * surface.noise(5.0)
    body = ramp(inside + 0.6, 1.4)
    gray = _photographed(np.where(body > 0.3, gray, surface.clean * 0.4))
    return Layer(gray, np.maximum(body, 0.5 * ramp(shadow, 3.0)))


def overgrowth(surface: Surface) -> Layer:
    """Paint moss or weeds: ragged patches of another photograph's texture, dark and at a smaller scale."""
    clean, filling = surface.clean, surface.filling
    level = surface.puddle(radii=(5, 13), blobs=(4, 10))
    ragged = level + 2.0 * surface.noise(1.0) + 1.5 * surface.noise(3.0)
    leaves = ndimage.zoom(filling, np.divide(clean.shape, filling.shape), order=1)
    relief = 0.05 * surface.noise(3.0)
    gray = clean.mean() * surface.rng.uniform(0.45, 0.7) + 0.6 * (leaves - filling.mean()) + relief
    return Layer(gray, np.maximum(ramp(ragged, 2.5), 0.3 * ramp(level + 3, 4.0)))


def debris(surface: Surface) -> Layer:
    """Paint a few foreign stones, cut from another photograph, each with a shadow on its lower right."""
    rng, clean = surface.rng, surface.clean
    fine = surface.texture() - surface.filling.mean()
    coarse = ndimage.gaussian_filter(fine, 1.5)
    gray, opacity = clean * 0.3, np.zeros(clean.shape)
    middle = np.asarray(surface.spot())
    for _ in range(rng.randint(1, 5)):
        radius = rng.uniform(7, 14)
        center = middle + rng.uniform(-20, 20, 2)
        corners = ring(tuple(center), radius, rng.randint(5, 9), rng, elongation=rng.uniform(1.0, 1.5))
        inside = polygon(clean.shape, corners) + 0.4 * surface.noise(1.5)
        shadow = 0.7 * ramp(polygon(clean.shape, corners + 3), 3.0)
        facet = (np.indices(clean.shape).sum(axis=0) - center.sum()) / radius
        stone = rng.uniform(0.62, 0.85) + 0.3 * coarse + 0.15 * fine - 0.08 * facet
        body = ramp(inside + 0.5, 1.4)
        gray = np.where(body > 0.3, stone, np.where(opacity > shadow, gray, clean * 0.3))
        opacity = np.maximum(opacity, np.maximum(body, shadow))
    return Layer(_photographed(gray), opacity)


def washout(surface: Surface) -> Layer:
    """Paint washed-out joints: the bright parts of the surface within a spot are deep, dark gaps."""
    level = surface.puddle(radii=(12, 24), blobs=(2, 5)) + 2.0 * surface.noise(2.0)
    low, high = np.quantile(surface.clean, [0.5, 0.95])
    joint = ramp(ndimage.gaussian_filter(surface.clean, 0.7) - low - 0.4 * (high - low), 0.2 * (high - low))
    gap = low * surface.rng.uniform(0.3, 0.5) + 0.03 * surface.noise(1.0)
    return Layer(_photographed(gap), 0.95 * ramp(level, 3.0) * joint)


def _photographed(gray: Field) -> Field:
    """Blur by about a pixel, as the lens did to the photograph around the defect."""
    return ndimage.gaussian_filter(gray, 0.6)
