# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The region of interest: the part of an image that is judged, as if the rest were not there."""

import torch
from anomalib.models.components.base.dynamic_buffer import DynamicBufferMixin
from torch import nn
from torch.nn import functional as F


class Region(DynamicBufferMixin, nn.Module):
    """A region that is the same for all images; empty where all of an image counts.

    The mask is a buffer, so that a checkpoint and an exported model have it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(0, 0, dtype=torch.bool))  # (H, W), True inside
        self.mask: torch.Tensor

    def set(self, mask: torch.Tensor | None) -> None:
        """Replace the region.

        Args:
            mask: Shape ``(H, W)``, dtype bool, True inside; ``None`` for the whole image.
        """
        self.mask = torch.zeros(0, 0, dtype=torch.bool) if mask is None else mask.to(self.mask.device)

    def __bool__(self) -> bool:
        """Return whether there is a region at all."""
        return self.mask.shape[0] > 0

    def forward(self, size: tuple[int, int]) -> torch.Tensor | None:
        """Return the region at a resolution.

        Args:
            size: Height h and width w.

        Returns:
            Shape ``(1, 1, h, w)``, True inside; ``None`` where all of the image counts.
        """
        return at_size(self.mask[None, None], size) if self else None


def at_size(regions: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring regions to a resolution: a pixel is inside if any part of it is.

    Args:
        regions: Shape ``(B, 1, H, W)``, True inside.
        size: Height h and width w.

    Returns:
        Shape ``(B, 1, h, w)``, dtype bool.
    """
    if tuple(regions.shape[-2:]) == tuple(size):
        return regions
    if torch.compiler.is_compiling():  # ONNX has no adaptive pooling
        rows, columns = (_windows(*lengths) for lengths in zip(regions.shape[-2:], size, strict=True))
        return rows.to(regions.device) @ regions.float() @ columns.T.to(regions.device) > 0
    return F.adaptive_max_pool2d(regions.float(), size) > 0


def _windows(length: int, count: int) -> torch.Tensor:
    """Return which pixels each window of an adaptive pooling holds, shape ``(count, length)``, 0 or 1."""
    pixels, windows = torch.arange(length), torch.arange(count).unsqueeze(1)
    starts, ends = windows * length // count, -(-(windows + 1) * length // count)
    return ((pixels >= starts) & (pixels < ends)).float()
