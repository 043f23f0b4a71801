# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Damage: paste marks onto clean windows, and say which patches show it."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FILLS: tuple[str, ...] = ("dark", "bright", "color", "other", "blur", "shade", "grain", "shift", "relief", "negative")
"""What a mark changes a pixel to."""

VISIBLE_CHANGE = 0.045
"""Mean absolute RGB difference (0-1) from which a pixel counts as changed."""


def place(masks: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Turn, scale and move marks at random.

    Args:
        masks: Shape (n, 1, h, w) in [0, 1].
        size: Side of the result.
        generator: Source of randomness.

    Returns:
        Shape (n, 1, size, size) in [0, 1].
    """
    n = len(masks)
    turn = torch.rand(n, generator=generator) * 2 * math.pi
    zoom = torch.exp(torch.empty(n).uniform_(-0.6, 0.7, generator=generator))  # > 1: a smaller mark
    move = torch.empty(n, 2).uniform_(-0.6, 0.6, generator=generator) * zoom[:, None]
    cos, sin = zoom * turn.cos(), zoom * turn.sin()
    theta = torch.stack([torch.stack([cos, -sin, move[:, 0]], 1), torch.stack([sin, cos, move[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    return F.grid_sample(masks, grid, align_corners=False, padding_mode="zeros")


def _fill(kind: str, windows: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    """Make replacement pixels of one kind, shape (n, 3, size, size)."""
    n = len(windows)

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty(n, channels, 1, 1).uniform_(low, high, generator=generator)

    mean = windows.mean((2, 3), keepdim=True)
    if kind == "dark":
        return mean * draw(0, 0.5) + 0.3 * (windows - mean) * draw(0, 1)
    if kind == "bright":
        return 1 - (1 - mean) * draw(0, 0.6) + 0.3 * (windows - mean) * draw(0, 1)
    if kind == "color":
        return draw(0, 1, 3).expand_as(windows)
    if kind == "blur":
        return F.avg_pool2d(windows, 9, 1, 4, count_include_pad=False)
    if kind == "shade":
        return windows * draw(0.3, 1.7)
    if kind == "grain":
        return windows + draw(0.1, 0.35) * torch.randn(windows.shape, generator=generator)
    if kind == "shift":
        return torch.roll(
            windows, (int(size_part(windows, generator)), int(size_part(windows, generator))), (2, 3)
        ).flip(3)
    if kind == "relief":
        slope = masks - torch.roll(masks, (2, 2), (2, 3))
        return windows + draw(1, 4) * slope + draw(-0.15, 0.15)
    return 2 * mean - windows  # negative


def size_part(windows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an integer number of pixels up to half a window."""
    return torch.randint(4, windows.shape[-1] // 2, (), generator=generator)


def damage(windows: Tensor, others: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paint one mark into every window.

    Args:
        windows: Clean windows, shape (n, 3, size, size) in [0, 1].
        others: Windows of other canvases, the source of foreign matter, same shape.
        masks: How strongly each pixel is changed, shape (n, 1, size, size) in [0, 1].
        generator: Source of randomness.

    Returns:
        The damaged windows, and a mask of visible change, shape (n, size, size), 1 where pixels differ noticeably.
    """
    kinds = torch.randint(len(FILLS), (len(windows),), generator=generator)
    damaged = windows.clone()
    strength = torch.empty(len(windows), 1, 1, 1).uniform_(0.4, 1.0, generator=generator)
    for index, kind in enumerate(FILLS):
        chosen = kinds == index
        if not chosen.any():
            continue
        clean, mask = windows[chosen], masks[chosen]
        fill = others[chosen] if kind == "other" else _fill(kind, clean, mask, generator)
        alpha = strength[chosen] * (torch.ones_like(mask) if kind == "relief" else mask)
        damaged[chosen] = clean + alpha * (fill - clean) if kind != "relief" else torch.lerp(clean, fill, mask.sqrt())
    damaged = damaged.clamp(0, 1)
    return damaged, ((damaged - windows).abs().mean(1) > VISIBLE_CHANGE).float()


def patch_labels(visible: Tensor, patch: int) -> Tensor:
    """Label every patch by the share of its pixels that visibly changed.

    Args:
        visible: Shape (n, size, size), 1 where a pixel changed.
        patch: Patch side in pixels.

    Returns:
        int64, shape (n, patches): 1 defect (at least 6 %), 0 normal (less than 0.5 %), -1 neither.
    """
    share = F.avg_pool2d(visible[:, None], patch).flatten(1)
    labels = torch.full(share.shape, -1, dtype=torch.long)
    labels[share < 0.005] = 0
    labels[share >= 0.06] = 1
    return labels
