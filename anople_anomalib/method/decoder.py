# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The multi-view aware decoder D (section 3.3.1 of the AnoPLe paper)."""

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

_WIDTH_DIVISOR = 8  # hidden width = visual width / 8: the decoder then costs under a tenth of the visual tower
_MIN_HIDDEN_DIM = 32


class Decoder(nn.Module):
    """Three convolutions that turn patch tokens into local features in the space of the text features.

    A 1x1 convolution (a channel mixer) commutes with bilinear upsampling, so it runs on the patch grid, before the
    upsampling that the paper puts first; a 3x3 convolution (the spatial mixer) and a 1x1 convolution to the joint
    embedding follow on the upsampled grid.

    Args:
        visual_width: Width d_v of the patch tokens.
        embed_dim: Width of the joint embedding of images and texts.
        hidden_dim: Width between the convolutions; ``None`` for an eighth of ``visual_width``.
        upsampling: Side of the upsampled grid over the side of the patch grid.
        starts_at_zero: Whether the output is 0 at the start, as where it is added to other local features.
    """

    def __init__(
        self,
        visual_width: int,
        embed_dim: int,
        hidden_dim: int | None = None,
        upsampling: int = 4,
        starts_at_zero: bool = False,
    ) -> None:
        super().__init__()
        hidden_dim = hidden_dim or max(_MIN_HIDDEN_DIM, visual_width // _WIDTH_DIVISOR)
        self.upsampling = upsampling
        self.reduce = nn.Conv2d(visual_width, hidden_dim, kernel_size=1)
        self.mix = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1)
        self.project = nn.Conv2d(hidden_dim, embed_dim, kernel_size=1)
        if starts_at_zero:
            for parameter in self.project.parameters():
                nn.init.zeros_(parameter)

    def forward(self, patch_tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Decode patch tokens.

        Args:
            patch_tokens: Patch tokens z[1:] of the last layer, shape ``(B, h * w, d_v)``.
            grid: Height h and width w of the patch grid.

        Returns:
            Local features D(z), shape ``(B, embed_dim, H, W)`` with ``H = upsampling * h``; not normalized.
        """
        x = rearrange(patch_tokens, "b (h w) d -> b d h w", h=grid[0], w=grid[1])
        x = self.reduce(x)  # (B, hidden, h, w)
        size = (grid[0] * self.upsampling, grid[1] * self.upsampling)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)  # (B, hidden, H, W)
        x = self.mix(F.gelu(x))
        return self.project(F.gelu(x))  # (B, embed_dim, H, W)
