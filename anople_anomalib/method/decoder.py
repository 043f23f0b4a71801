# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The multi-view aware decoder D (section 3.3.1 of the AnoPLe paper)."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from anople_anomalib.utils.scoped import bfloat16_products

_WIDTH_DIVISOR = 8  # hidden width = visual width / 8: the decoder then costs under a tenth of the visual tower
_MIN_HIDDEN_DIM = 32


class LocalFeatures(NamedTuple):
    """Local features D(z) of all pixels as the factors that they are made of, ``weight @ hidden + bias + coarse``.

    Cosines with the texts (7) and weighted means (10) are linear in the factors, a fraction of the size of the
    features: of ten views at 240 pixels and a width of 128 these take 18 MB in every operation. All keep the channels
    of a pixel together in memory, as patch tokens have them: where orders meet, operations take several times as long.

    Attributes:
        hidden: Values before the last linear map, shape ``(B, d, H, W)``.
        weight: That map, shape ``(D, d)``.
        bias: Shape ``(D,)``.
        coarse: Features to which these are added, resized from a smaller grid, shape ``(B, D, h, w)``; ``None`` for 0.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    coarse: torch.Tensor | None = None

    @classmethod
    def of(cls, features: torch.Tensor) -> "LocalFeatures":
        """Take features as they are, of shape ``(B, D, H, W)``."""
        width = features.shape[1]
        return cls(features, torch.eye(width, device=features.device, dtype=features.dtype), features.new_zeros(width))

    def dense(self) -> torch.Tensor:
        """Return the features, shape ``(B, D, H, W)``; not normalized."""
        features = F.conv2d(self.hidden, self.weight[:, :, None, None], self.bias)
        return features if self.coarse is None else features + self._resized(self.coarse)

    def take(self, index: torch.Tensor) -> "LocalFeatures":
        """Return the features of images by their numbers, shape ``(B',)``."""
        hidden = self.hidden.movedim(1, -1)[index].movedim(-1, 1)
        return self._replace(hidden=hidden, coarse=None if self.coarse is None else self.coarse[index])

    def dot(self, vectors: torch.Tensor) -> torch.Tensor:
        """Compute the dot products of every pixel with vectors of shape ``(S, D)``: shape ``(B, S, H, W)``."""
        vectors = vectors.to(self.weight.dtype)
        products = _mix(vectors @ self.weight, self.hidden) + (vectors @ self.bias)[:, None, None]
        return products if self.coarse is None else products + self._resized(_mix(vectors, self.coarse))

    def squared_length(self) -> torch.Tensor:
        """Compute the squared length of every pixel's features, shape ``(B, 1, H, W)``; rounded, it may be below 0."""
        factors = _mix(self.weight.T @ self.weight, self.hidden)
        if self.coarse is None:
            factors, length = factors + 2 * (self.weight.T @ self.bias)[:, None, None], self.bias @ self.bias
        else:
            coarse = self.coarse + self.bias[:, None, None]  # a constant stays itself when it is resized
            factors = factors + self._resized(_mix(2 * self.weight.T, coarse))
            length = _squared_length_resized(coarse, self.hidden.shape[-2:])
        return length + (self.hidden * factors).sum(dim=1, keepdim=True)

    def mean(self, weights: torch.Tensor) -> torch.Tensor:
        """Compute the weighted sums over the pixels, by weights of shape ``(B, H, W)`` whose sum is 1: ``(B, D)``."""
        hidden = (weights.flatten(1).unsqueeze(1) @ self.hidden.flatten(2).transpose(1, 2)).squeeze(1)
        mean = hidden @ self.weight.T + self.bias
        if self.coarse is None:
            return mean
        rows, columns = interpolations(self.coarse, weights.shape[-2:])
        coarse = (rows.T @ weights @ columns).flatten(1).unsqueeze(2)  # the weight that each coarse position has
        return mean + (self.coarse.flatten(2) @ coarse).squeeze(2)

    def _resized(self, grid: torch.Tensor) -> torch.Tensor:
        return F.interpolate(grid, size=self.hidden.shape[-2:], mode="bilinear", align_corners=False)


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

    def forward(self, patch_tokens: torch.Tensor, grid: tuple[int, int], rounded: bool = False) -> LocalFeatures:
        """Decode patch tokens.

        Args:
            patch_tokens: Patch tokens z[1:] of the last layer, shape ``(B, h * w, d_v)``.
            grid: Height h and width w of the patch grid.
            rounded: Whether the spatial mixer may multiply in bfloat16, where that is faster.

        Returns:
            Local features D(z) of ``H = upsampling * h`` rows of pixels.
        """
        x = rearrange(patch_tokens, "b (h w) d -> b d h w", h=grid[0], w=grid[1])
        x = self.reduce(x)  # (B, hidden, h, w)
        size = (grid[0] * self.upsampling, grid[1] * self.upsampling)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)  # (B, hidden, H, W)
        with bfloat16_products(x, wanted=rounded):
            x = self.mix(F.gelu(x)).to(x.dtype)
        weight, bias = self.project.weight.flatten(1), cast("torch.Tensor", self.project.bias)  # it has one
        return LocalFeatures(F.gelu(x), weight, bias)


def _mix(vectors: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Multiply the channels of every position of ``(B, C, h, w)`` with vectors ``(S, C)``: ``(B, S, h, w)``."""
    return F.linear(grid.movedim(1, -1), vectors.to(grid.dtype)).movedim(-1, 1)  # channels lie together in memory


def interpolations(grid: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrices by which the rows and columns of ``(B, C, h, w)`` are resized: ``(H, h)`` and ``(W, w)``."""
    units = (torch.eye(side, dtype=grid.dtype, device=grid.device).unsqueeze(0) for side in grid.shape[-2:])
    rows, columns = (
        F.interpolate(unit, resized, mode="linear")[0].T for unit, resized in zip(units, size, strict=True)
    )
    return rows, columns


def _squared_length_resized(grid: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Compute squared lengths ``(B, 1, H, W)`` of features ``(B, D, h, w)`` that are resized to H x W, without these.

    Bilinear interpolation mixes four neighbors, so that a squared length is a mixture of their ten dot products.
    """
    rows, columns = interpolations(grid, size)
    # of each row: the squared weights of single positions, and the products of the weights of neighbors
    rows, next_rows = rows**2, rows[:, 1:] * rows[:, :-1]
    columns, next_columns = columns**2, columns[:, 1:] * columns[:, :-1]
    above, below = grid[:, :, :-1], grid[:, :, 1:]

    def resize(first: torch.Tensor, second: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        """Resize the dot products of two grids of features."""
        return down @ (first * second).sum(dim=1, keepdim=True) @ across.T

    single = resize(grid, grid, rows, columns)
    pairs = resize(above, below, next_rows, columns) + resize(grid[..., :-1], grid[..., 1:], rows, next_columns)
    diagonal = resize(above[..., :-1], below[..., 1:], next_rows, next_columns)
    return single + 2 * (pairs + diagonal + resize(above[..., 1:], below[..., :-1], next_rows, next_columns))
