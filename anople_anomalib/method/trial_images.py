# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images on which the parts of a trained model are tried: views of the shots, normal and damaged.

They share nothing with the anomalies of the training but the shots: neither seeds nor views nor the kinds of damage,
so that a part does not win by what it was trained on.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv_functional

from .turns import turn_image

_MARGIN = 1 / 8  # of the side: what is drawn from outside of the image by a rotation is its mirror image


def view_of(
    image: torch.Tensor, size: tuple[int, int], turns: Sequence[int], generator: torch.Generator
) -> torch.Tensor:
    """Show a shot as another normal part might look: a little turned, shifted, brighter or darker.

    Args:
        image: Shape ``(1, 3, H, W)``, values in [0, 1].
        size: Height h and width w of the view.
        turns: Turns of :mod:`.turns` in which parts may lie, one of which is drawn. ``[0]`` for parts that lie
            upright: a mirrored one is a defect then.
        generator: Source of randomness, on the CPU.

    Returns:
        Shape ``(1, 3, h, w)``, values in [0, 1].
    """
    turn = turns[int(torch.randint(len(turns), (), generator=generator))]
    view = tv_functional.resize(
        turn_image(image, turn), list(size), interpolation=InterpolationMode.BICUBIC, antialias=True
    ).clamp(0, 1)
    pad = [int(_MARGIN * side) for side in (size[1], size[1], size[0], size[0])]
    shift = [int(_draw(generator, -0.05, 0.05) * side) for side in (size[1], size[0])]
    view = tv_functional.affine(
        F.pad(view, pad, mode="reflect"),
        angle=_draw(generator, -10, 10),
        translate=shift,
        scale=_draw(generator, 1.0, 1.1),
        shear=[0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    view = tv_functional.center_crop(view, list(size))
    mean = view.mean()
    return ((view - mean) * _draw(generator, 0.9, 1.1) + mean * _draw(generator, 0.9, 1.1)).clamp(0, 1)


def damage(image: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Damage an image by a scratch, a shade, a piece out of place, or a loss of texture.

    Args:
        image: Shape ``(1, 3, h, w)``, values in [0, 1].
        generator: Source of randomness, on the CPU.

    Returns:
        The damaged image, and its mask of shape ``(1, h, w)``, 1 where damaged.
    """
    height, width = image.shape[-2:]
    kind = int(torch.randint(4, (), generator=generator))
    inside = (_scratch if kind == 0 else _patch)(height, width, generator).to(image)
    if kind <= 1:
        filling = image + _draw(generator, 0.15, 0.45) * (1 if _draw(generator, 0, 1) < 0.5 else -1)
    elif kind == 2:
        shifts = [int(_draw(generator, 0.2, 0.8) * side) for side in (height, width)]
        filling = image.rot90(2, (-2, -1)).roll(shifts, (-2, -1)) * _draw(generator, 0.7, 1.3)
    else:
        radius = max(1, min(height, width) // 20)
        filling = F.avg_pool2d(F.pad(image, [radius] * 4, mode="reflect"), 2 * radius + 1, stride=1)
    opacity = (inside > 0).to(image) if kind == 0 else (4 * inside).clamp(0, 1)
    return (image + opacity * (filling - image)).clamp(0, 1), (inside > 0).to(image).unsqueeze(0)


def _draw(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _places(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return rows, columns


def _patch(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a smooth field of shape ``(h, w)`` that is positive within an irregular patch."""
    cells = 2 * int(torch.randint(2, 5, (), generator=generator))
    noise = torch.randn(1, 1, cells, cells, generator=generator)
    noise = F.interpolate(noise, size=(height, width), mode="bicubic")[0, 0]
    rows, columns = _places(height, width)
    row, column = (_draw(generator, 0.1, 0.9) for _ in range(2))
    radius = _draw(generator, 0.06, 0.2)
    return (1 - torch.hypot(rows - row, columns - column) / radius + 0.5 * noise).clamp(-1, 1)


def _scratch(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a field of shape ``(h, w)`` that is positive within a thin, slightly wavy line."""
    rows, columns = _places(height, width)
    row, column = (_draw(generator, 0.1, 0.9) for _ in range(2))
    angle, length, breadth = _draw(generator, 0, math.pi), _draw(generator, 0.1, 0.35), _draw(generator, 0.006, 0.018)
    along = (rows - row) * math.sin(angle) + (columns - column) * math.cos(angle)
    across = (columns - column) * math.sin(angle) - (rows - row) * math.cos(angle) + 0.02 * torch.sin(40 * along)
    return torch.minimum(1 - along.abs() / length, 1 - across.abs() / breadth)
