# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Turns in which a part may lie: a table of rotations by multiples of 15 degrees, of an image and its mirror image."""

import math

import torch
from torch.nn import functional as F

STEP = 15
"""Degrees between the turns of the table."""

_CIRCLE = 360 // STEP
NUM_TURNS = 2 * _CIRCLE
"""Turn t is a rotation by ``STEP * t`` degrees against the clock; from half of them on of the mirror image."""

_QUARTER = 90 // STEP


def turns_of(name: str | int) -> list[int]:
    """Return the turns that are asked for, upright first.

    Args:
        name: ``"none"`` for upright alone, ``"mirrored"`` for that and its mirror image, ``"right_angles"`` for
            rotations by right angles, mirrored and not, or the degrees n of rotations by every n degrees: a multiple
            of 15 that divides 360.
    """
    named = {
        "none": [0],
        "mirrored": [0, _CIRCLE],
        "right_angles": [side + turn for side in (0, _CIRCLE) for turn in range(0, _CIRCLE, _QUARTER)],
    }
    return named[name] if isinstance(name, str) else list(range(0, _CIRCLE, name // STEP))


def turn_image(images: torch.Tensor, turn: int) -> torch.Tensor:
    """Turn images about their middle; what a rotation takes from outside of them is their extended edge.

    Shape ``(B, C, H, W)``, by odd right angles ``(B, C, W, H)``.
    """
    images = images.flip(-1) if turn >= _CIRCLE else images
    rotation = turn % _CIRCLE
    if rotation % _QUARTER == 0:
        return images.rot90(rotation // _QUARTER, (-2, -1))  # no pixel is interpolated
    height, width = images.shape[-2:]
    columns, rows = _sources(rotation, height, width, images.device)
    places = torch.stack([columns, rows], dim=-1).to(images.dtype).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, places, mode="bicubic", padding_mode="border", align_corners=False)


def patches_inside(turn: int, grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """Return which patches of a turned image, on a grid ``(h, w)``, show nothing of its extended edges.

    Shape ``(h * w,)``, dtype bool.
    """
    if turn % _QUARTER == 0:
        return torch.ones(grid[0] * grid[1], dtype=torch.bool, device=device)
    fine = 4  # pixels along a patch: enough to tell whether a corner of it is outside
    columns, rows = _sources(turn % _CIRCLE, fine * grid[0], fine * grid[1], device)
    outside = ((columns.abs() > 1) | (rows.abs() > 1)).float()
    return F.max_pool2d(outside[None], fine).flatten() == 0


def _sources(rotation: int, height: int, width: int, device: torch.device | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return column and row in [-1, 1] from which a rotated image takes each pixel, shape ``(h, w)`` each."""
    angle = math.radians(STEP * rotation)
    rows, columns = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (height, width))
    y, x = torch.meshgrid(rows * height, columns * width, indexing="ij")  # in one unit
    return (
        (math.cos(angle) * x - math.sin(angle) * y) / width,
        (math.sin(angle) * x + math.cos(angle) * y) / height,
    )
