# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The components around a model where the user gives none, and pre-processing that is the same wherever it is done."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize, Transform

from anople_anomalib.backbones.clip_loading import CLIP_MEAN, CLIP_STD
from anople_anomalib.metrics.per_category import PerCategoryEvaluator
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.utils.transforms import (
    ExactResize,
    bicubic_resize,
    flat,
    is_exact,
    require_one_transform,
    resize_like,
)

if TYPE_CHECKING:
    from .heat_maps import HeatMaps


class ExactPreProcessor(PreProcessor):
    """anomalib's pre-processor, but for an export that resizes as in training.

    anomalib exports a ``Resize`` without anti-aliasing, which gives other pixels and so other scores.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self.export_transform = exportable(self.transform)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform that ``checkpoint_config`` returned."""
        super().load_checkpoint_config(config)
        self.export_transform = exportable(self.transform)


def exact_pre_processor(pre_processor: nn.Module | bool) -> nn.Module | bool:
    """Make anomalib's pre-processor exact; refuse one that does not do the same everywhere: a ``ValueError``."""
    require_one_transform(pre_processor)
    return ExactPreProcessor(pre_processor.transform) if type(pre_processor) is PreProcessor else pre_processor


def resize_input(pre_processor: nn.Module | None, size: tuple[int, int]) -> None:
    """Let a pre-processor resize to another height and width, in its way; one that does not resize stays as it is."""
    if isinstance(pre_processor, PreProcessor) and (parts := flat(pre_processor.transform)):
        parts = [resize_like(part, size) if isinstance(part, Resize) else part for part in parts]
        pre_processor.transform = Compose(parts)
        pre_processor.export_transform = exportable(pre_processor.transform)


def exportable(transform: Transform | None) -> nn.Module | None:
    """Copy a transform for an export: bicubic and bilinear resizing stays exact, the rest is as anomalib exports it."""
    if isinstance(transform, Compose):
        return Compose([exportable(part) for part in transform.transforms])
    if is_exact(transform):
        return ExactResize((transform.size[0], transform.size[1]), InterpolationMode(transform.interpolation))
    return get_exportable_transform(copy.deepcopy(transform))


class ExactEvaluation:
    """Post-processor and evaluator, by anomalib's names, of AnoPLe and the baselines alike."""

    @staticmethod
    def configure_post_processor() -> ExactPostProcessor:
        """Configure the default post-processor: thresholds midway between scores, normalized scores in their order."""
        return ExactPostProcessor()

    @staticmethod
    def configure_evaluator() -> PerCategoryEvaluator:
        """Configure the default evaluator: anomalib's metrics, per category where there are several."""
        return PerCategoryEvaluator(metrics=("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"))


class DefaultComponents(ExactEvaluation):
    """Pre-processor and visualizer of AnoPLe, by anomalib's names, beside those of every model."""

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> PreProcessor:
        """Configure the default pre-processor: resize to the backbone's height and width, CLIP's normalization."""
        resize = bicubic_resize(image_size or (240, 240))  # of the paper
        return ExactPreProcessor(Compose([resize, Normalize(mean=list(mean), std=list(std))]))

    @staticmethod
    def configure_visualizer() -> "HeatMaps":
        """Configure the default visualizer: image, heat map and outline, with score and verdict."""
        from .heat_maps import HeatMaps  # loads matplotlib

        return HeatMaps()
