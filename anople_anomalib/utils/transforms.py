# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Transforms of images that training, memory, test, checkpoint and export do alike.

CLIP's resizing, bicubic with anti-aliasing, which an exported model does to the pixel as a trained one; and the
parts that the transform of a pre-processor may hold.
"""

import logging
from collections.abc import Callable
from typing import TypeGuard

import torch
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, Grayscale, InterpolationMode, Normalize, Resize, Transform
from torchvision.transforms.v2 import functional as tv_functional

logger = logging.getLogger(__name__)

Kernel = Callable[[torch.Tensor], torch.Tensor]

_BLOCKS = 8  # of a side of a resized image: each sees an eighth of the pixels, and a few beside it
_BLACK, _WHITE = (-3.0, -0.5), (0.5, 4.0)
_HOOKS = ("forward", "on_validation_batch_start", "on_test_batch_start", "on_predict_batch_start")
_ALLOWED = (
    "a transform may hold Resize([height, width]) once, bicubic or bilinear with antialias=True, "
    "Grayscale(num_output_channels=3), and Normalize"
)


def bicubic_resize(size: tuple[int, int]) -> Resize:
    """Return torchvision's transform that resizes to height and width as CLIP's own pre-processing does."""
    return Resize(list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)


def is_exact(transform: Transform | None) -> TypeGuard[Resize]:
    """Return whether :class:`ExactResize` does the same as a transform: to height and width, with anti-aliasing."""
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
    """
    return not any(isinstance(side, torch.SymInt) for side in sides) and tuple(sides) == tuple(size)


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images, shape ``(..., C, H, W)``, as :func:`bicubic_resize` does; those of that size stay as they are."""
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
        """Resize images of shape ``(B, C, H, W)``."""
        return resize_exactly(images, self.size, self.interpolation)


def resize_exactly(
    images: torch.Tensor,
    size: tuple[int, int],
    interpolation: InterpolationMode = InterpolationMode.BICUBIC,
) -> torch.Tensor:
    """Resize images, shape ``(B, C, H, W)``, with anti-aliasing, in an export by matmuls, which every runtime has."""
    if torch.compiler.is_compiling():
        return resize_by_matmul(images, size, interpolation)
    return tv_functional.resize(images, list(size), interpolation=interpolation, antialias=True)


def resize_by_matmul(
    images: torch.Tensor,
    size: tuple[int, int],
    interpolation: InterpolationMode = InterpolationMode.BICUBIC,
) -> torch.Tensor:
    """Resize images, shape ``(..., H, W)``, with anti-aliasing by matmuls, first along columns, then along rows."""
    kernel = _KERNELS[interpolation]
    # OpenVINO takes a normalization before a reshape for a dequantization and moves it behind: a maximum prevents that
    lowest = torch.tensor(torch.finfo(images.dtype).min, dtype=images.dtype, device=images.device)
    resized = torch.maximum(images, lowest).flatten(end_dim=-3)
    for length in size:
        resized = _resized(resized, length, kernel).mT
    return resized.reshape(*images.shape[:-2], *size)  # a reshape keeps OpenVINO from fusing a normalization wrongly


def _resized(images: torch.Tensor, length: int, kernel: Kernel) -> torch.Tensor:
    """Resize images of shape ``(N, H, W)`` to another height.

    The kernel is stretched over as many pixels as one of the result covers, as in Pillow. Neighbors in the result see
    the same pixels, and nothing of the rest: a block of them is the product of the weights and of these pixels alone.
    """
    pixels, blocks = images.shape[-2], _BLOCKS if length % _BLOCKS == 0 else 1
    margin = 2 * pixels // length + 3  # at least the reach of the kernel, and rounding
    seen = length // blocks * pixels // length + 2 * margin + 2
    device = images.device
    results = torch.arange(length, device=device).reshape(blocks, -1, 1)
    height = torch.arange(pixels, device=device)[-1] + 1  # in an export a size is no tensor
    first = torch.div(results[:, :1] * height, length, rounding_mode="floor") - margin
    numbers = first + torch.arange(seen, device=device)  # of the pixels, (blocks, 1, seen)
    # integers: exact even where a runtime takes bfloat16
    offsets = (length * (2 * numbers + 1) - height * (2 * results + 1)).abs()
    x = offsets.to(images.dtype) / (2 * height.clamp_min(length)).to(images.dtype)
    weights = kernel(x) * ((numbers >= 0) & (numbers < height))
    weights = weights / weights.sum(dim=-1, keepdim=True)
    inside = numbers.clamp(min=0).minimum(height - 1).flatten()
    return (weights @ images.index_select(1, inside).unflatten(1, (blocks, -1))).flatten(1, 2)


def _bicubic(x: torch.Tensor) -> torch.Tensor:
    """Evaluate the cubic kernel with a = -1/2 at distances ``x``, as a sum of powers cut off at 1 and 2."""
    near, far = (1 - x).clamp_min(0), (2 - x).clamp_min(0)
    return near.square() * (1 - 2 * near) + far.square() * (0.5 * far - 0.5)


def _bilinear(x: torch.Tensor) -> torch.Tensor:
    """Evaluate the triangle kernel at distances ``x``."""
    return (1 - x).clamp_min(0)


_KERNELS: dict[InterpolationMode, Kernel] = {
    InterpolationMode.BICUBIC: _bicubic,
    InterpolationMode.BILINEAR: _bilinear,
}


def require_one_transform(pre_processor: nn.Module | bool | None) -> None:
    """Refuse a pre-processor whose transform cannot be the same everywhere.

    A training image is damaged at twice the model's resolution, cut, and only then transformed: that is possible with
    transforms that look at one pixel at a time, and with a resizing. A checkpoint holds the transforms that anomalib
    knows, and an export those that become operations of every runtime.

    Args:
        pre_processor: A pre-processor, or a flag.

    Raises:
        ValueError: If it does more than that.
    """
    if pre_processor is None or isinstance(pre_processor, bool):
        return
    own = type(pre_processor)
    if not isinstance(pre_processor, PreProcessor) or any(
        getattr(own, hook) is not getattr(PreProcessor, hook) for hook in _HOOKS
    ):
        msg = (
            f"pre_processor must be anomalib's PreProcessor, with a transform, or a flag, got {own.__name__}, of which "
            "is not known whether training, test and export do the same with an image."
        )
        raise ValueError(msg)
    parts = flat(pre_processor.transform)
    refused = next((part for part in parts if not _is_allowed(part)), None)
    if refused is None and sum(isinstance(part, Resize) for part in parts) > 1:
        refused = next(part for part in reversed(parts) if isinstance(part, Resize))
    if refused is not None:
        msg = (
            f"The pre-processor's transform holds {refused}, which training, memory, test, checkpoint and export "
            f"cannot all do alike: {_ALLOWED}. Prepare the images, or use train_augmentations of the datamodule for "
            "training alone."
        )
        raise ValueError(msg)


def warn_of_values(transform: Transform | None) -> None:
    """Warn where a transform gives other values than pretrained backbones were trained on.

    Images have values in [0, 1]. The means and deviations of CLIP, ImageNet and Inception turn black into -1 to -2.2
    and white into 1 to 2.7; without a normalization, with two, or with one for bytes it is far from that.
    """
    values = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    for part in pointwise(transform):
        values = part(values)
    black, white = values[0].mean().item(), values[1].mean().item()
    if not (_BLACK[0] <= black <= _BLACK[1] and _WHITE[0] <= white <= _WHITE[1]):
        logger.warning(
            "The pre-processor turns black into %.3g and white into %.3g, far from the values that pretrained "
            "backbones know (about -2 and 2): its transform needs one Normalize with the backbone's mean and std for "
            "[0, 1].",
            black,
            white,
        )


def transform_of(pre_processor: object) -> Transform | None:
    """Return the transform of a pre-processor of anomalib's kind, if it has one."""
    return pre_processor.transform if isinstance(pre_processor, PreProcessor) else None


def flat(transform: Transform | None) -> list[Transform]:
    """List the parts of a transform, of compositions theirs, in order."""
    if isinstance(transform, Compose):
        return [part for each in transform.transforms for part in flat(each)]
    return [] if transform is None else [transform]


def pointwise(transform: Transform | None) -> list[Transform]:
    """List the parts of a transform that look at one pixel at a time: all but the resizing."""
    return [part for part in flat(transform) if not isinstance(part, Resize)]


def resize_like(transform: Transform | None, size: tuple[int, int]) -> Resize:
    """Return a resizing to another height and width, of the kind that a transform holds; bicubic if it holds none."""
    own = [part for part in flat(transform) if isinstance(part, Resize)]
    return Resize(list(size), interpolation=own[0].interpolation, antialias=True) if own else bicubic_resize(size)


def _is_allowed(part: Transform) -> bool:
    if isinstance(part, Grayscale):
        return part.num_output_channels == 3
    return is_exact(part) or isinstance(part, Normalize)
