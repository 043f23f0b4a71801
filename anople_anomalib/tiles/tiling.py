# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles: overlapping crops of a large image, each an image of its own for the method, and their maps put together.

A tile is not a view of section 3.3.2 but takes the place of the whole image I_0: at training it is cut into the views
in its turn, at test it goes with the signal c_{N+1}, as the paper's image does. Neither kornia's
``combine_tensor_patches`` nor anomalib's ``Tiler`` merges maps without seams: both average overlaps, with a step
where the overlap ends. Here tiles are faded into each other, by one matmul per axis, which every runtime has.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import torch
from einops import rearrange

_OVERLAP = 4  # neighbors share a quarter of a tile's side: a defect on a border is well inside of one of them
_SHRINK = 2  # how many pixels of the image one pixel of an automatic tile covers, along a side
MAX_AUTO = 12
"""Automatic rows or columns, at most."""


@dataclass(frozen=True)
class Tiling:
    """A grid of overlapping tiles of one size, which together cover a canvas."""

    rows: int = 1  # number R of rows
    columns: int = 1  # number C of columns

    @property
    def number(self) -> int:
        """Number T of tiles."""
        return self.rows * self.columns

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the image that is cut into tiles of a size."""
        return _length(size[0], self.rows), _length(size[1], self.columns)

    def cut(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Cut images, shape ``(B, ..., *canvas(size))``, into tiles, row by row, shape ``(B * T, ..., h, w)``."""
        if self.number == 1:
            return images
        (height, width), (down, right) = size, (_stride(side) for side in size)
        strips = [images[..., row * down : row * down + height, :] for row in range(self.rows)]
        tiles = [strip[..., col * right : col * right + width] for strip in strips for col in range(self.columns)]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def merge(self, maps: torch.Tensor) -> torch.Tensor:
        """Put maps of tiles together, where they overlap by a linear fade from one to the other.

        The weights of a pixel are a product of one per axis and add up to 1: a constant stays constant.

        Args:
            maps: Shape ``(B * T, h, w)``, in the order of :meth:`cut`.

        Returns:
            Shape ``(B, *canvas((h, w)))``.
        """
        if self.number == 1:
            return maps
        maps = rearrange(maps, "(b r c) h w -> b (r h) (c w)", r=self.rows, c=self.columns)
        down = _fade(self.rows, maps.shape[-2] // self.rows).to(maps)
        right = _fade(self.columns, maps.shape[-1] // self.columns).to(maps)
        return down @ maps @ right.T

    def places(self, grid: tuple[int, int]) -> torch.Tensor:
        """Return where in the whole image the patches of all tiles, each on a grid, are.

        Shares of height and width, in [0, 1): shape ``(T * n, 2)``, tile by tile, patches row by row.
        """
        step = 1 - 1 / _OVERLAP
        shares = []
        for count, length in zip((self.rows, self.columns), grid, strict=True):
            starts, within = step * torch.arange(count).unsqueeze(1), torch.arange(length) / length
            shares.append((starts + within) / (1 + step * (count - 1)))  # (count, length)
        rows, columns = torch.broadcast_tensors(shares[0][:, None, :, None], shares[1][None, :, None, :])
        return torch.stack([rows, columns], dim=-1).reshape(-1, 2)


def automatic_tiling(image_sizes: Iterable[tuple[int, int]], size: tuple[int, int], shrink: float = _SHRINK) -> Tiling:
    """Choose so many tiles that no image is shrunk to less than half its height or width, at most 12 along a side.

    Args:
        image_sizes: Heights and widths of the images; the largest count.
        size: Height and width of a tile.
        shrink: How many pixels of the image one pixel of a tile may cover, along a side, in place of the 2.

    Returns:
        The tiling; a single tile for images of at most twice a tile's size.
    """
    sides = [max(lengths) for lengths in zip(*image_sizes, strict=True)]
    counts = [
        min(MAX_AUTO, 1 + max(0, ceil((length / shrink - tile) / _stride(tile))))
        for length, tile in zip(sides, size, strict=True)
    ]
    return Tiling(*counts)


def plain_tiles(tiles: object) -> str | list[int] | None:
    """Return ``None``, ``"auto"``, or rows and columns as a list; ``tiles`` that are none of these are a ValueError."""
    numbers = list(tiles) if isinstance(tiles, Iterable) and not isinstance(tiles, str) else []
    if len(numbers) == 2 and all(type(number) is int and number >= 1 for number in numbers):
        return numbers
    if tiles is not None and tiles != "auto":
        msg = f"tiles must be 'auto', the numbers of rows and columns such as [3, 4], or None for none, got {tiles!r}."
        raise ValueError(msg)
    return None if tiles is None else "auto"


def _stride(side: int) -> int:
    return side - side // _OVERLAP


def _length(side: int, count: int) -> int:
    return side + (count - 1) * _stride(side)


def _fade(count: int, side: int) -> torch.Tensor:
    """Return the weights of all tiles' pixels for every pixel of the canvas, shape ``(length, count * side)``."""
    stride, overlap = _stride(side), side // _OVERLAP
    weights = torch.zeros(_length(side, count), count, side)
    ramp = (torch.arange(overlap) + 0.5) / overlap
    for tile in range(count):
        weight = torch.ones(side)
        if tile > 0:
            weight[:overlap] = ramp
        if tile < count - 1:
            weight[side - overlap :] = 1 - ramp
        weights[tile * stride : tile * stride + side, tile] = torch.diag(weight)
    return weights.flatten(1)
