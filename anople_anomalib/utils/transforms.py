# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the transform of a pre-processor may be: one that training, memory, test, checkpoint and export do alike."""

import logging

import torch
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, Grayscale, Normalize, Resize, Transform

from .resizing import bicubic_resize, is_exact

logger = logging.getLogger(__name__)

_BLACK, _WHITE = (-3.0, -0.5), (0.5, 4.0)
_HOOKS = ("forward", "on_validation_batch_start", "on_test_batch_start", "on_predict_batch_start")
_ALLOWED = (
    "a transform may hold Resize([height, width]) once, bicubic or bilinear with antialias=True, "
    "Grayscale(num_output_channels=3), and Normalize"
)


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
            "what only training needs."
        )
        raise ValueError(msg)


def warn_of_values(transform: Transform | None) -> None:
    """Warn where a transform gives other values than pretrained backbones were trained on.

    Images have values in [0, 1]. The means and deviations of CLIP, ImageNet and Inception turn black into -1 to -2.2
    and white into 1 to 2.7; without a normalization, with two, or with one for bytes it is far from that.

    Args:
        transform: Transform of a pre-processor.
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


def flat(transform: Transform | None) -> list[Transform]:
    """List the parts of a transform, of compositions theirs, in order."""
    if isinstance(transform, Compose):
        return [part for each in transform.transforms for part in flat(each)]
    return [] if transform is None else [transform]


def pointwise(transform: Transform | None) -> list[Transform]:
    """List the parts of a transform that look at one pixel at a time: all but the resizing."""
    return [part for part in flat(transform) if not isinstance(part, Resize)]


def resize_like(transform: Transform | None, size: tuple[int, int]) -> Resize:
    """Return a resizing to another size, of the kind that a transform holds; bicubic if it holds none.

    Args:
        transform: Transform of a pre-processor.
        size: Height and width of the result.
    """
    own = [part for part in flat(transform) if isinstance(part, Resize)]
    return Resize(list(size), interpolation=own[0].interpolation, antialias=True) if own else bicubic_resize(size)


def _is_allowed(part: Transform) -> bool:
    if isinstance(part, Grayscale):
        return part.num_output_channels == 3
    return is_exact(part) or isinstance(part, Normalize)
