# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of AnomalyGPT: a map by the shots, a map by texts, and prompts for a language model made of a map.

Paper: Gu et al., "AnomalyGPT: Detecting Industrial Anomalies Using Large Vision-Language Models", AAAI 2024,
arXiv:2308.15366. Written from its text alone. The numbers of the equations are this package's own:

(1) ``M = Upsample(1 - 1/4 sum over l of max over r in R_l of <F_l, r>)``: the map of the few-shot setting; F_l are the
    patch features after layer l of four, of length 1, R_l those of the shots.
(2) ``s = max M``: the score.
(3) ``M_D = Upsample(1/4 sum over l of softmax(<W_l F_l, w^n> / tau, <W_l F_l, w^a> / tau))``, its second value: the
    decoder's map; W_l are linear layers, w^n and w^a the compositional ensembles of both states, all of length 1. The
    paper has the sum; the mean is a probability.
(4) ``E = [E_base, E_M(M)]``: prompts of the prompt learner, of which the first are learned as they are, and the others
    are made of a map by convolutions.
(5) ``L = dice(M_D, mask) + focal(M_D, mask) + L_ce``, with the cross-entropy L_ce of the language model's answer.

The memory banks, and the losses of maps, are AnoPLe's (:mod:`anople_anomalib.method`).
"""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.baselines.around_clip import EnsembleModel, abnormal_probability, resized_map
from anople_anomalib.method.loss import pixel_loss

_BASE_PROMPTS = 9
_SIDE = 3  # the prompts that are made of a map stand for a grid of places, which the answers name
_CHANNELS = (16, 64)


class PromptLearner(nn.Module):
    """A language model's input beside its words: an image, and prompts that know where an anomaly is, equation (4).

    Args:
        embed_dim: Width of the image embeddings.
        width: Width of the language model's word embeddings.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        first, second = _CHANNELS
        self.image = nn.Linear(embed_dim, width)
        self.base = nn.Parameter(0.02 * torch.randn(_BASE_PROMPTS, width))  # E_base
        self.of_map = nn.Sequential(  # E_M
            nn.Conv2d(1, first, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(_SIDE),
            nn.Conv2d(second, width, kernel_size=1),
        )

    def forward(self, embeddings: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the embeddings of images and the prompts.

        Args:
            embeddings: Image embeddings, shape ``(B, embed_dim)``.
            maps: Anomaly maps, shape ``(B, 1, h, w)``.

        Returns:
            Images, shape ``(B, 1, width)``, and prompts, shape ``(B, 18, width)``.
        """
        made = rearrange(self.of_map(maps), "b c h w -> b (h w) c")
        prompts = torch.cat([self.base.expand(len(made), -1, -1), made], dim=1)
        return self.image(F.normalize(embeddings, dim=-1)).unsqueeze(1), prompts


class AnomalyGPTModel(EnsembleModel):
    """AnomalyGPT without its language model: a memory of the shots, a decoder, and a prompt learner.

    Args:
        clip: The frozen CLIP.
        layers: 1-based numbers of the layers.
        language_width: Width of the language model's word embeddings; ``None`` for no prompt learner.
    """

    def __init__(self, clip: FrozenCLIP, layers: Sequence[int], language_width: int | None = None) -> None:
        super().__init__(clip, layers)
        self.decoder = nn.ModuleList(nn.Linear(clip.visual.width, clip.embed_dim) for _ in self.layers)  # W
        self.prompt_learner = None if language_width is None else PromptLearner(clip.embed_dim, language_width)

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the patch features of every layer, shape ``(B, n, d_v)`` each."""
        return self.encode(images).layers

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images and their pixels.

        Args:
            images: Normalized images, shape ``(B, 3, h, w)``.

        Returns:
            ``pred_score`` (2) of shape ``(B, 1)`` and ``anomaly_map`` (1) of shape ``(B, 1, h, w)``, values in [0, 2].

        Raises:
            RuntimeError: If there are no shots.
        """
        self.require_shots()
        distances = 2 * self.memory_banks(self.features(images))  # (1): 1 - cosine
        anomaly_map = resized_map(self.on_grid(distances), images.shape[-2:])
        return InferenceBatch(pred_score=anomaly_map.flatten(1).amax(dim=1, keepdim=True), anomaly_map=anomaly_map)

    def decoder_map(
        self, layers: Sequence[torch.Tensor], size: torch.Size, texts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute equation (3).

        Args:
            layers: Patch features of every layer, shape ``(B, n, d_v)`` each.
            size: Height and width of the map.
            texts: (w^n, w^a), shape ``(2, D)``, or ``(B, 2, D)`` for texts of their own; ``None`` for the model's.

        Returns:
            Shape ``(B, 1, h, w)``, values in [0, 1].
        """
        texts = self.text_features if texts is None else texts
        local = [F.normalize(map_(layer.float()), dim=-1) for map_, layer in zip(self.decoder, layers, strict=True)]
        probabilities = [abnormal_probability(each, texts, self.clip.logit_scale) for each in local]
        return resized_map(self.on_grid(torch.stack(probabilities).mean(dim=0)), size)


def map_loss(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Compute the terms of equation (5) that the map has.

    Args:
        maps: M_D, shape ``(B, 1, h, w)``, values in [0, 1].
        masks: Shape ``(B, 1, h, w)``, 1 where anomalous.

    Returns:
        ``dice + focal``, a scalar, 0 or more.
    """
    abnormal = maps.clamp(1e-6, 1 - 1e-6)
    return pixel_loss(torch.cat([1 - abnormal, abnormal], dim=1).log(), masks.squeeze(1).round().long())
