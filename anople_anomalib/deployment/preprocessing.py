# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Pre-processing that is the same in training, memory, test, checkpoint and export."""

import copy
from typing import Any

from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anople_anomalib.utils.transforms import ExactResize, is_exact, require_one_transform, resize_like


class ExactPreProcessor(PreProcessor):
    """anomalib's pre-processor, but for an export that resizes as in training.

    anomalib exports a ``Resize`` without anti-aliasing, which gives other pixels and so other scores.

    Args:
        transform: Transform of the images before they reach the model.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self.export_transform = exportable(self.transform)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform from a checkpoint.

        Args:
            config: What ``checkpoint_config`` returned.
        """
        super().load_checkpoint_config(config)
        self.export_transform = exportable(self.transform)


def exact_pre_processor(pre_processor: nn.Module | bool) -> nn.Module | bool:
    """Check a user's pre-processor and make anomalib's own one exact.

    Args:
        pre_processor: A pre-processor, or a flag.

    Returns:
        The same; in place of a ``PreProcessor`` an :class:`ExactPreProcessor` with its transform.

    Raises:
        ValueError: If training, memory, test, checkpoint or export would do something else with an image.
    """
    require_one_transform(pre_processor)
    return ExactPreProcessor(pre_processor.transform) if type(pre_processor) is PreProcessor else pre_processor


def resize_input(pre_processor: nn.Module | None, size: tuple[int, int]) -> None:
    """Let a pre-processor resize to another size, in the way it does; one that does not resize stays as it is.

    Args:
        pre_processor: anomalib's pre-processor, or ``None``.
        size: Height and width.
    """
    if isinstance(pre_processor, PreProcessor) and pre_processor.transform is not None:
        pre_processor.transform = _resized(pre_processor.transform, size)
        pre_processor.export_transform = exportable(pre_processor.transform)


def _resized(transform: Transform, size: tuple[int, int]) -> Transform:
    if isinstance(transform, Compose):
        return Compose([_resized(part, size) for part in transform.transforms])
    return resize_like(transform, size) if isinstance(transform, Resize) else transform


def exportable(transform: Transform | None) -> nn.Module | None:
    """Copy a transform so that the copy can be exported and gives the same pixels.

    Args:
        transform: Any transform; bicubic and bilinear resizing with anti-aliasing stays exact, the rest becomes what
            anomalib makes of it.

    Returns:
        The copy.
    """
    if isinstance(transform, Compose):
        return Compose([exportable(part) for part in transform.transforms])
    if is_exact(transform):
        return ExactResize((transform.size[0], transform.size[1]), InterpolationMode(transform.interpolation))
    return get_exportable_transform(copy.deepcopy(transform))
