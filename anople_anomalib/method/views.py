# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Views of an image: four sub-images and the whole (section 3.3.2 of the AnoPLe paper)."""

import torch
from einops import rearrange
from torch.nn import functional as F

from anople_anomalib.utils.transforms import resize

NUM_CROPS = 4
"""N: the sub-images that a double-resolution image is divided into, without overlap."""


def num_views(multi_view: bool) -> int:
    """Return the number of views of a training image, N + 1 or 1."""
    return NUM_CROPS + 1 if multi_view else 1


def cut_views(images: torch.Tensor, size: tuple[int, int], multi_view: bool = True) -> torch.Tensor:
    """Cut images of twice the model's resolution into four crops and the resized whole.

    Args:
        images: Shape ``(B, C, H, W)``; resized to twice ``size`` if it is not that large.
        size: Height h and width w that the model sees.
        multi_view: Whether to cut sub-images; if not, the whole image is the only view.

    Returns:
        Views of shape ``(B, V, C, h, w)``; the whole image comes last (c_{N+1} of the view signal).
    """
    whole = resize(images, size)
    if not multi_view:
        return whole.unsqueeze(1)
    crops = rearrange(resize(images, double(size)), "b c (i h) (j w) -> b (i j) c h w", i=2, j=2)
    return torch.cat([crops, whole.unsqueeze(1)], dim=1)


def cut_masks(masks: torch.Tensor, size: tuple[int, int], multi_view: bool = True) -> torch.Tensor:
    """Cut masks the way :func:`cut_views` cuts their images.

    The whole mask shrinks by max pooling: an anomaly of a single pixel stays one.

    Args:
        masks: Binary masks of shape ``(B, 1, H, W)`` with H and W twice ``size``.
        size: Height h and width w that the model sees.
        multi_view: As for the images.

    Returns:
        Masks of shape ``(B, V, h, w)``, 1 where anomalous, of the same dtype.
    """
    whole = F.adaptive_max_pool2d(masks.float(), size)  # (B, 1, h, w)
    if not multi_view:
        return whole.to(masks.dtype)
    crops = rearrange(masks, "b 1 (i h) (j w) -> b (i j) h w", i=2, j=2)
    return torch.cat([crops, whole.to(masks.dtype)], dim=1)


def distinct_views(views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the views of pairs of an image and a damaged copy that show no damage: they are the image's own.

    Args:
        views: Shape ``(B, V, C, h, w)``; of pairs, the images first, as they are compared by halves.

    Returns:
        Numbers of the views that differ, of ``B * V``, and of each view its place among these, shape ``(B * V,)``.
    """
    numbers = torch.arange(views.shape[0] * views.shape[1], device=views.device)
    if len(views) % 2:
        return numbers, numbers
    same = torch.eq(*views.chunk(2)).flatten(2).all(dim=2).flatten()
    first, second = numbers.chunk(2)
    distinct, index = torch.unique(torch.cat([first, torch.where(same, first, second)]), return_inverse=True)
    return distinct, index


def double(size: tuple[int, int]) -> tuple[int, int]:
    """Return twice the model's resolution, at which training images arrive."""
    return (2 * size[0], 2 * size[1])
