# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""CLIP's resizing, bicubic with anti-aliasing, which an exported model does to the pixel as a trained one."""

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import nn
from torchvision.transforms.v2 import InterpolationMode, Resize, Transform
from torchvision.transforms.v2 import functional as tv_functional

Kernel = Callable[[torch.Tensor], torch.Tensor]


def bicubic_resize(size: tuple[int, int]) -> Resize:
    """Return torchvision's transform that resizes as CLIP's own pre-processing does.

    Args:
        size: Height and width of the result.
    """
    return Resize(list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)


def is_exact(transform: Transform | None) -> TypeGuard[Resize]:
    """Return whether :class:`ExactResize` does what a transform does: to height and width, with anti-aliasing."""
    return (
        isinstance(transform, Resize)
        and interpolation_of(transform) in _KERNELS
        and bool(transform.antialias)
        and len(transform.size or ()) == 2
    )


def interpolation_of(transform: Resize) -> InterpolationMode | None:
    """Return the kind of a resizing, which torchvision also takes by its name; ``None`` for Pillow's numbers."""
    kind = transform.interpolation
    return InterpolationMode(kind) if isinstance(kind, str) else kind if isinstance(kind, InterpolationMode) else None


def is_size(sides: torch.Size, size: tuple[int, int] | torch.Size) -> bool:
    """Return whether height and width are known to be those of a size.

    In an export they may be unknown: a comparison would fix them, which torch 2.6 refuses.

    Args:
        sides: Height and width of a tensor.
        size: Height and width to compare with.
    """
    return not any(isinstance(side, torch.SymInt) for side in sides) and tuple(sides) == tuple(size)


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images as :func:`bicubic_resize` does.

    Args:
        images: Shape ``(..., C, H, W)``.
        size: Height and width of the result.

    Returns:
        Images of shape ``(..., C, *size)``; those of that size already, as they are.
    """
    if is_size(images.shape[-2:], size):
        return images
    return tv_functional.resize(images, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)


class ExactResize(nn.Module):
    """torchvision's resizing with anti-aliasing, in operations that every runtime has when exported.

    Args:
        size: Height and width of the result.
        interpolation: Bicubic or bilinear.
    """

    def __init__(self, size: tuple[int, int], interpolation: InterpolationMode = InterpolationMode.BICUBIC) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images.

        Args:
            images: Shape ``(B, C, H, W)``.

        Returns:
            Images of shape ``(B, C, *size)``.
        """
        return resize_exactly(images, self.size, self.interpolation)


def resize_exactly(
    images: torch.Tensor,
    size: tuple[int, int],
    interpolation: InterpolationMode = InterpolationMode.BICUBIC,
) -> torch.Tensor:
    """Resize images with anti-aliasing, in an export by matmuls, which every runtime has.

    Args:
        images: Shape ``(B, C, H, W)``.
        size: Height h and width w of the result.
        interpolation: Bicubic or bilinear.

    Returns:
        Images of shape ``(B, C, h, w)``.
    """
    if torch.compiler.is_compiling():
        return resize_by_matmul(images, size, interpolation)
    return tv_functional.resize(images, list(size), interpolation=interpolation, antialias=True)


def resize_by_matmul(
    images: torch.Tensor,
    size: tuple[int, int],
    interpolation: InterpolationMode = InterpolationMode.BICUBIC,
) -> torch.Tensor:
    """Resize with anti-aliasing by two matmuls, one per axis.

    Args:
        images: Shape ``(..., H, W)``; H and W may be unknown when it is exported.
        size: Height h and width w of the result.
        interpolation: Bicubic or bilinear.

    Returns:
        Images of shape ``(..., h, w)``.
    """
    kernel = _KERNELS[interpolation]
    rows, columns = (_weights(images, axis, length, kernel) for axis, length in zip((-2, -1), size, strict=True))
    # OpenVINO takes a normalization before a reshape for a dequantization and moves it behind: a maximum prevents that
    lowest = torch.tensor(torch.finfo(images.dtype).min, dtype=images.dtype, device=images.device)
    images = torch.maximum(images, lowest)
    resized = rows @ images.flatten(end_dim=-3) @ columns.T
    return resized.reshape(*images.shape[:-2], *size)  # a reshape keeps OpenVINO from fusing a normalization wrongly


def _weights(images: torch.Tensor, axis: int, length: int, kernel: Kernel) -> torch.Tensor:
    """Return the weights of the pixels along an axis for every pixel of the result, shape ``(length, pixels)``.

    The kernel is stretched over as many pixels as one of the result covers, as in Pillow.
    """
    pixels = 2 * torch.arange(images.shape[axis], device=images.device) + 1
    results = 2 * torch.arange(length, device=images.device).unsqueeze(1) + 1
    double = pixels[-1] + 1  # twice the number of pixels
    offsets = (2 * length * pixels - double * results).abs()  # integers: exact even where a runtime takes bfloat16
    x = offsets.to(images.dtype) / (2 * double.clamp_min(2 * length)).to(images.dtype)
    weights = kernel(x)
    return weights / weights.sum(dim=1, keepdim=True)


def _bicubic(x: torch.Tensor) -> torch.Tensor:
    """Evaluate the cubic kernel with a = -1/2 at distances ``x``."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _bilinear(x: torch.Tensor) -> torch.Tensor:
    """Evaluate the triangle kernel at distances ``x``."""
    return (1 - x).clamp_min(0)


_KERNELS: dict[InterpolationMode, Kernel] = {
    InterpolationMode.BICUBIC: _bicubic,
    InterpolationMode.BILINEAR: _bilinear,
}
