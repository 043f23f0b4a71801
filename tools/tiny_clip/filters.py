# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Classical filter energies per patch: a teacher for what is texture."""

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = 4
ENERGIES = 6 + 5 * SCALES + 3
"""Mean color (3), spread of color (3), five derivative energies per scale, and spread of gray at three scales."""

_FLOOR = 0.005
"""Added to energies before the logarithm."""

_DERIVATIVES = (
    torch.tensor(
        [
            [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
            [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
            [[1, -2, 1], [2, -4, 2], [1, -2, 1]],
            [[1, 2, 1], [-2, -4, -2], [1, 2, 1]],
            [[1, 0, -1], [0, 0, 0], [-1, 0, 1]],
        ],
        dtype=torch.float32,
    )[:, None]
    / 4
)  # x, y, xx, yy, xy; (5, 1, 3, 3)


@torch.no_grad()
def filter_energies(windows: Tensor, patch: int) -> Tensor:
    """Describe every patch by local color and the energy of derivatives at several scales.

    Args:
        windows: Shape (n, 3, size, size) in [0, 1].
        patch: Patch side in pixels.

    Returns:
        Shape (n, patches, ENERGIES); energies are logarithms.
    """
    mean = F.avg_pool2d(windows, patch)
    spread = (F.avg_pool2d(windows**2, patch) - mean**2).clamp(min=0).sqrt()
    maps = [3 * mean, torch.log(spread + _FLOOR)]
    gray, side = windows.mean(1, keepdim=True), patch
    for scale in range(SCALES):
        response = F.conv2d(F.pad(gray, (1, 1, 1, 1), mode="replicate"), _DERIVATIVES).abs()
        energy = F.avg_pool2d(response, side)  # (n, 5, rows, columns)
        maps.append(torch.log(energy + _FLOOR))
        if scale:
            local = F.avg_pool2d(gray, side)
            maps.append(torch.log((F.avg_pool2d(gray**2, side) - local**2).clamp(min=0).sqrt() + _FLOOR))
        if scale + 1 < SCALES:
            gray, side = F.avg_pool2d(gray, 2), side // 2
    return torch.cat(maps, 1).flatten(2).transpose(1, 2)
