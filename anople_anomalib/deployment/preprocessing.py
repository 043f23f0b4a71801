# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""CLIP's pre-processing, the same in a trained and in an exported model."""

import copy
from typing import Any

from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import nn
from torchvision.transforms.v2 import Compose, Transform

from anople_anomalib.utils.resizing import BicubicResize, is_bicubic


class ExactPreProcessor(PreProcessor):
    """anomalib's pre-processor, but for an export that resizes as in training.

    anomalib exports a bicubic ``Resize`` without anti-aliasing, which gives other pixels and so other scores.

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


def exportable(transform: Transform | None) -> nn.Module | None:
    """Copy a transform so that the copy can be exported and gives the same pixels.

    Args:
        transform: Any transform; bicubic resizing with anti-aliasing stays exact, the rest becomes what anomalib makes
            of it.

    Returns:
        The copy.
    """
    if isinstance(transform, Compose):
        return Compose([exportable(part) for part in transform.transforms])
    if is_bicubic(transform):
        return BicubicResize(tuple(transform.size))
    return get_exportable_transform(copy.deepcopy(transform))
