# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The components around the model that it brings along, where the user gives none."""

from collections.abc import Sequence

from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize

from anople_anomalib.backbones.clip_loading import CLIP_MEAN, CLIP_STD
from anople_anomalib.metrics.category_scores import ANOMALIB_METRICS
from anople_anomalib.metrics.per_category import PerCategoryEvaluator
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.utils.transforms import bicubic_resize

from .heat_maps import HeatMaps
from .preprocessing import ExactPreProcessor


class ExactEvaluation:
    """Post-processor and evaluator, by anomalib's names, of AnoPLe and the baselines alike."""

    @staticmethod
    def configure_post_processor() -> ExactPostProcessor:
        """Configure the default post-processor: thresholds midway between scores, normalized scores in their order."""
        return ExactPostProcessor()

    @staticmethod
    def configure_evaluator() -> PerCategoryEvaluator:
        """Configure the default evaluator: anomalib's metrics, per category where there are several."""
        return PerCategoryEvaluator(metrics=ANOMALIB_METRICS)


class DefaultComponents(ExactEvaluation):
    """Pre-processor and visualizer of AnoPLe, by anomalib's names, beside those of every model."""

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> PreProcessor:
        """Configure the default pre-processor: resize to the backbone's resolution, CLIP's normalization.

        Args:
            image_size: Height and width that the backbone takes; ``None`` for the paper's 240.
            mean: Mean of each channel.
            std: Standard deviation of each channel.

        Returns:
            The pre-processor.
        """
        transform = Compose(
            [
                bicubic_resize(image_size or (240, 240)),
                Normalize(mean=list(mean), std=list(std)),
            ]
        )
        return ExactPreProcessor(transform=transform)

    @staticmethod
    def configure_visualizer() -> HeatMaps:
        """Configure the default visualizer: image, heat map and outline, with score and verdict."""
        return HeatMaps()
