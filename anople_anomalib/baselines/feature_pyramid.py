# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Feature maps of a convolutional network of timm, by the stride of its stages or by name."""

import logging
from collections.abc import Sequence
from typing import Any

import timm
import torch
from anomalib.models.components import TimmFeatureExtractor
from torch import nn

from anople_anomalib.backbones.package_weights import LITE0, PACKAGE_WEIGHTS, package_weights
from anople_anomalib.backbones.timm_features import NO_FEATURES, find_architecture

logger = logging.getLogger(__name__)


class FeaturePyramid(nn.Module):
    """A frozen convolutional network that hands out the maps of some of its stages.

    The baselines' papers start from these maps as they are, each with its own pooling and resizing, while
    :class:`anople_anomalib.backbones.timm_features.MemoryBackbone` hands out patch features that are pooled and on one
    grid, of transformers as well.

    Args:
        backbone: A model name of timm, or ``"efficientnet-lite0"``, whose weights need no download.
        strides: Strides of the stages that the method of the paper takes, in ascending order.
        layers: Names of the stages, as many, for another choice; ``None`` for those with the strides.
        pre_trained: Whether it has its pretrained weights; random ones are for tests and speed measurements only.

    Raises:
        ValueError: If the name is unknown, or the network has no such stages.
        FileNotFoundError: If the weights are neither here nor to be downloaded.
    """

    def __init__(
        self,
        backbone: str,
        strides: Sequence[int],
        layers: Sequence[str] | None = None,
        pre_trained: bool = True,
    ) -> None:
        super().__init__()
        architecture, config = find_architecture(backbone)
        if config is None:
            msg = f"backbone must be {LITE0!r} or a model name of timm such as 'wide_resnet50_2', got {backbone!r}."
            raise ValueError(msg)
        self.mean, self.std = tuple(config.mean), tuple(config.std)
        indices = _stages(backbone, architecture, strides, layers)
        self.extractor = _load(backbone, architecture, indices, pre_trained)
        self.widths: list[int] = list(self.extractor.out_dims)
        self.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "FeaturePyramid":
        """Stay in evaluation mode, whatever the mode of the parent."""
        del mode
        return super().train(mode=False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the maps.

        Args:
            images: Images normalized by :attr:`mean` and :attr:`std`, shape ``(B, 3, H, W)``.

        Returns:
            One map per stage, shape ``(B, C_i, H_i, W_i)``.
        """
        return list(self.extractor(images).values())


def _stages(backbone: str, architecture: str, strides: Sequence[int], layers: Sequence[str] | None) -> list[int]:
    """Return timm's numbers of the stages, from a network that holds no values."""
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(architecture, pretrained=False, features_only=True).feature_info
    except NO_FEATURES as error:
        msg = f"backbone {backbone} does not tell its intermediate features: take a convolutional one."
        raise ValueError(msg) from error
    names, reductions = info.module_name(), info.reduction()
    if layers is None:
        if not set(strides) <= set(reductions) or len(set(reductions)) != len(reductions):
            msg = f"backbone {backbone} has stages with the strides {reductions}, the method needs {list(strides)}."
            raise ValueError(msg)
        return [reductions.index(stride) for stride in strides]
    if len(layers) != len(strides) or not set(layers) <= set(names):
        msg = f"layers must be {len(strides)} of {', '.join(names)} for {backbone}, got {list(layers)!r}."
        raise ValueError(msg)
    return [names.index(layer) for layer in layers]


def _load(backbone: str, architecture: str, indices: Sequence[int], pre_trained: bool) -> TimmFeatureExtractor:
    """Build anomalib's extractor with its weights."""
    own_weights = backbone in PACKAGE_WEIGHTS
    if not pre_trained:
        logger.warning("%s has random weights, as asked for: its detections mean nothing.", backbone)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            extractor = TimmFeatureExtractor(architecture, indices, pre_trained=pre_trained and not own_weights)
    except Exception as error:  # hubs and timm raise whatever they like
        if not pre_trained or own_weights:
            raise
        msg = (
            f"The weights of the backbone {backbone} are not in the cache and cannot be downloaded "
            f"({type(error).__name__}): connect to the internet once, or use --model.backbone {LITE0}, which needs "
            "no download."
        )
        raise FileNotFoundError(msg) from error
    if pre_trained and own_weights:
        weights, own = package_weights(backbone), extractor.feature_extractor.state_dict()
        extractor.feature_extractor.load_state_dict({name: weights[name] for name in own})
    return extractor
