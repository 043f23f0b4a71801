# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The region of interest: the part of an image that is judged, as if the rest were not there.

A user gives it as a mask, a polygon, or a folder with a mask per image.
"""

from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.models.components.base.dynamic_buffer import DynamicBufferMixin
from skimage.draw import polygon2mask
from torch import nn
from torch.nn import functional as F

from anople_anomalib.data.masks import binary_mask

Polygon = Sequence[Sequence[float]]
"""Corners, each as shares of the image's width and height: ``[[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]``."""

_KINDS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
_MIN_CORNERS = 3


class Region(DynamicBufferMixin, nn.Module):
    """A region that is the same for all images; empty where all of an image counts.

    The mask is a buffer, so that a checkpoint and an exported model have it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(0, 0, dtype=torch.bool))  # (H, W), True inside
        self.mask: torch.Tensor

    def set(self, mask: torch.Tensor | None) -> None:
        """Replace the region by a mask, shape ``(H, W)``, True inside; ``None`` for the whole image."""
        self.mask = torch.zeros(0, 0, dtype=torch.bool) if mask is None else mask.to(self.mask.device)

    def __bool__(self) -> bool:
        """Return whether there is a region at all."""
        return self.mask.shape[0] > 0

    def forward(self, size: tuple[int, int]) -> torch.Tensor | None:
        """Return the region at a resolution, shape ``(1, 1, h, w)``; ``None`` where all of the image counts."""
        return at_size(self.mask[None, None], size) if self else None


def at_size(regions: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring regions, shape ``(B, 1, H, W)``, True inside, to a resolution: a pixel is inside if any part of it is."""
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


def within_region(batch: Batch[Any], regions: Region | torch.Tensor) -> Batch[Any]:
    """Take the pixels outside of the region, or of each image's, ``(B, 1, H, W)``, out of the ground truth of a batch.

    An image whose mask has nothing left is a normal one: its defect is none of the region's. Labels without masks stay.
    """
    truth = batch.gt_mask
    if truth is None or (isinstance(regions, Region) and not regions):
        return batch
    size = (int(truth.shape[-2]), int(truth.shape[-1]))
    inside = regions(size) if isinstance(regions, Region) else at_size(regions, size)
    left = truth.bool() & inside.squeeze(1)
    emptied = truth.flatten(1).any(dim=1) & ~left.flatten(1).any(dim=1)
    label = batch.gt_label
    return batch.update(gt_mask=left, gt_label=None if label is None else label.bool() & ~emptied)


def plain_roi(roi: object) -> str | list[list[float]] | None:
    """Check the argument ``roi`` as far as no file is needed, and turn it into plain data.

    Raises:
        ValueError: If it is neither ``None``, a path nor a polygon, or a corner is outside of the image.
    """
    if roi is None or isinstance(roi, str | Path):
        return None if roi is None else str(roi)
    items = roi if isinstance(roi, Iterable) else ()
    corners = [list(item) if isinstance(item, Iterable) and not isinstance(item, str) else [] for item in items]
    plain = all(len(corner) == 2 and all(isinstance(share, Real) for share in corner) for corner in corners)
    if len(corners) < _MIN_CORNERS or not plain:
        msg = f"roi must be the path of a mask, a folder of masks, or three or more corners [x, y], got {roi!r}."
        raise ValueError(msg)
    if not all(0 <= share <= 1 for corner in corners for share in corner):
        msg = f"The corners of roi are shares of the image's width and height, between 0 and 1, got {roi!r}."
        raise ValueError(msg)
    return corners


def polygon_mask(polygon: Polygon, size: tuple[int, int]) -> torch.Tensor:
    """Draw a polygon, shape ``(H, W)``, True inside; nothing inside is a ``ValueError``."""
    corners = [(y * size[0] - 0.5, x * size[1] - 0.5) for x, y in polygon]  # centers of pixels
    return _not_empty(torch.from_numpy(polygon2mask(size, corners)), f"The polygon roi={polygon}")


def read_region(path: Path, image_sizes: dict[Path, tuple[int, int]]) -> torch.Tensor:
    """Read a mask.

    Args:
        path: Its file; pixels brighter than half of the brightest are inside.
        image_sizes: Height and width of the images that it is for, by their paths.

    Returns:
        Shape ``(H, W)``, True inside.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, nothing is inside, or an image is of another size.
    """
    if not path.is_file():
        msg = f"There is no mask '{path}': give roi the path of an image that is white inside, or of a folder of them."
        raise FileNotFoundError(msg)
    mask = _not_empty(torch.from_numpy(binary_mask(path)), f"The mask '{path}'")
    for image, size in image_sizes.items():
        if size != tuple(mask.shape):
            msg = (
                f"The mask '{path}' has {mask.shape[1]}x{mask.shape[0]} pixels, the image '{image}' {size[1]}x"
                f"{size[0]}: draw the region on an image of that size, or give it as a polygon."
            )
            raise ValueError(msg)
    return mask


def region_file(folder: Path, image: Path) -> Path:
    """Find the mask of an image in a folder: by as much of the image's path as the folder repeats, else by its name.

    ``masks/good/000.png``, else ``masks/000.png``, is that of ``parts/good/000.jpg``; none is a FileNotFoundError.
    """
    parts = image.absolute().with_suffix("").parts
    for start in range(max(1, len(parts) - 4), len(parts)):
        place = folder.joinpath(*parts[start:])
        for suffix in _KINDS:
            if (file := place.with_name(place.name + suffix)).is_file():
                return file
    msg = f"There is no mask of '{image}' in the folder '{folder}' of roi: add '{image.stem}.png', white inside."
    raise FileNotFoundError(msg)


def _not_empty(mask: torch.Tensor, name: str) -> torch.Tensor:
    if not mask.any():
        msg = f"{name} has nothing inside, so that nothing would be judged: it must be white where the part counts."
        raise ValueError(msg)
    return mask
