# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of PromptAD: prompts learned from normal images alone, around a frozen CLIP with V-V attention.

Paper: Li et al., "PromptAD: Learning Prompts with only Normal Samples for Few-Shot Anomaly Detection", CVPR 2024,
arXiv:2404.05231. The numbers of the equations are this package's own:

(1) ``s^n = [P_1] ... [P_EN] [obj.]``: normal prompts (NP), of learnable tokens and the class name.
(2) ``s^m = [P_1] ... [P_EN] [obj.] [with] [flaw]``: manual anomaly prompts (MAP), with words for an anomaly.
(3) ``s^l = [P_1] ... [P_EN] [obj.] [A_1] ... [A_EA]``: learnable anomaly prompts (LAP), with a learnable suffix.
(4) ``L_clip = -log(exp(<z, w^n> / tau) / (exp(<z, w^n> / tau) + sum over MAP and LAP w of exp(<z, w> / tau)))``: normal
    features z belong to the normal prototype ``w^n``, the mean of the NP.
(5) ``L_ema = max(0, |z - w^n|^2 - |z - w^a|^2)``: the explicit anomaly margin; ``w^a`` is the mean of MAP and LAP.
(6) ``L_align = |mean of MAP - mean of LAP|^2``.
(7) ``L = L_clip + L_ema + lambda L_align``.
(8) ``S_t, M_t = softmax(<z, w^n> / tau, <z, w^a> / tau)``, its second value: prompt-guided score and map.
(9) ``M_v = min over r in R of (1 - <F, r>) / 2``: vision-guided map of the features F of a layer, of which the shots
    make the memory R; the mean of two layers.
(10) ``M = 1 / (1 / M_t + 1 / M_v)``: the map.
(11) ``S = 1 / (1 / S_t + 1 / max M_v)``: the score.

There are two heads with prompts of their own: z is CLIP's image embedding in the image head, which gives S_t, and the
V-V attention's local feature of a patch in the pixel head, which gives M_t. A head's loss is (7).

Towers, memory bank and fusion are AnoPLe's (:mod:`anople_anomalib.method`).
"""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import GaussianBlur2d
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.backbones.outputs import ValueFeatures
from anople_anomalib.baselines.around_clip import ClipModel, abnormal_probability, resized_map
from anople_anomalib.method.fusion import fuse

from .prompts import PromptFeatures, PromptHead

_CONTEXT_LENGTH, _SUFFIX_LENGTH = 4, 1  # E_N and E_A


class PromptADModel(ClipModel):
    """PromptAD: two heads of prompts around a frozen CLIP, and a memory of the shots.

    Args:
        clip: The frozen CLIP.
        image_prompts: Number of normal contexts of the image head.
        pixel_prompts: Number of normal contexts of the pixel head.
        num_suffixes: Number of learnable suffixes, in each head.
        memory_layers: 1-based numbers of the layers of the memory; empty for none.
        alignment_weight: lambda.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels of the image; 0 for none.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        image_prompts: int = 3,
        pixel_prompts: int = 1,
        num_suffixes: int = 4,
        memory_layers: Sequence[int] = (3, 8),
        alignment_weight: float = 0.001,
        sigma: float = 2.4,
    ) -> None:
        super().__init__(clip, memory_layers)
        lengths = (_CONTEXT_LENGTH, num_suffixes, _SUFFIX_LENGTH)
        self.image_head = PromptHead(clip.text.width, image_prompts, *lengths)
        self.pixel_head = PromptHead(clip.text.width, pixel_prompts, *lengths)
        self.logit_scale = float(clip.logit_scale.log())  # 1 / tau: the authors' program multiplies by 4.6 for 100
        self.alignment_weight = alignment_weight
        self.blur = GaussianBlur2d(sigma=sigma) if sigma else nn.Identity()
        for name in ("names", "anomalies"):  # token numbers, of training only
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.long), persistent=False)
        self.register_buffer("image_prototypes", torch.zeros(2, clip.embed_dim))  # (w^n, w^a) of the image head
        self.register_buffer("pixel_prototypes", torch.zeros(2, clip.embed_dim))
        self.names: torch.Tensor
        self.anomalies: torch.Tensor
        self.image_prototypes: torch.Tensor
        self.pixel_prototypes: torch.Tensor

    def set_texts(self, names: torch.Tensor, anomalies: torch.Tensor) -> None:
        """Set the texts of the prompts.

        Args:
            names: Token numbers of the class names, shape ``(c, L)``.
            anomalies: Token numbers of the class names with their anomalies, shape ``(m, L)``.

        Raises:
            ValueError: If a text and the learnable tokens together exceed the context length.
        """
        contexts, suffixes = self.pixel_head.contexts.shape[1], self.pixel_head.suffixes.shape[1]
        self.clip.text.length(names, contexts + suffixes)
        self.clip.text.length(anomalies, contexts)
        device = self.image_prototypes.device
        self.names, self.anomalies = names.to(device), anomalies.to(device)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> ValueFeatures:
        """Encode images; nothing here is trained, so no gradient is kept.

        Args:
            images: Normalized images, shape ``(B, 3, h, w)``; resized to CLIP's size.

        Returns:
            Image embedding and local features of length 1, and the patch features of the memory's layers.
        """
        visual = self.clip.visual.encode_by_values(self.resized(images), self.layers)
        return visual._replace(
            image_embedding=F.normalize(visual.image_embedding, dim=-1),
            local_features=F.normalize(visual.local_features, dim=-1),
        )

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the memory's features of images, one tensor per layer, shape ``(B, n, d_v)`` each."""
        return self.encode(images).memory_features

    def losses(self, visual: ValueFeatures) -> dict[str, torch.Tensor]:
        """Compute the terms of equation (7) for both heads.

        Args:
            visual: Features of normal images, from :meth:`encode`.

        Returns:
            The terms by name; their sum is minimized.
        """
        losses = {}
        heads = {
            "image": (self.image_head, visual.image_embedding),
            "pixel": (self.pixel_head, visual.local_features),
        }
        for name, (head, features) in heads.items():
            prompts = head(self.clip.text, self.names, self.anomalies)
            losses[f"{name}_contrast"] = contrastive_loss(features, prompts, self.logit_scale)  # (4)
            losses[f"{name}_margin"] = margin_loss(features, prompts.prototypes)  # (5)
            losses[f"{name}_alignment"] = self.alignment_weight * alignment_loss(prompts)  # (6)
        return losses

    @torch.no_grad()
    def refresh_prototypes(self) -> None:
        """Compute the prototypes of both heads once, with the present prompts."""
        texts = (self.clip.text, self.names, self.anomalies)
        self.image_prototypes = self.image_head(*texts).prototypes.float()
        self.pixel_prototypes = self.pixel_head(*texts).prototypes.float()

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images and their pixels.

        Args:
            images: Normalized images, shape ``(B, 3, h, w)``.

        Returns:
            ``pred_score`` (11) of shape ``(B, 1)`` and ``anomaly_map`` (10), smoothed, of shape ``(B, 1, h, w)``;
            values in [0, 0.5], without a memory (8) alone, in [0, 1].

        Raises:
            RuntimeError: If the model is not trained.
        """
        self.require_shots()
        visual = self.encode(images)
        scores = abnormal_probability(visual.image_embedding, self.image_prototypes, self.logit_scale)  # S_t, (B,)
        local = abnormal_probability(visual.local_features, self.pixel_prototypes, self.logit_scale)
        grid = self.on_grid(local)  # M_t, (B, 1, h', w')
        if self.memory_banks:
            memory = self.on_grid(self.memory_banks(visual.memory_features))  # M_v
            grid = fuse(grid, memory)  # (10)
            scores = fuse(scores, resized_map(memory, images.shape[-2:]).flatten(1).amax(dim=1))  # (11)
        anomaly_map = self.blur(resized_map(grid, images.shape[-2:]))
        return InferenceBatch(pred_score=scores.unsqueeze(1), anomaly_map=anomaly_map)


def contrastive_loss(features: torch.Tensor, prompts: PromptFeatures, scale: torch.Tensor | float) -> torch.Tensor:
    """Attract normal features to the normal prototype, away from every anomaly prompt, equation (4).

    Args:
        features: Features z of normal images or patches, of length 1, shape ``(..., D)``.
        prompts: Embeddings of the prompts.
        scale: 1 / tau.

    Returns:
        The mean of ``-log(exp(<z, w^n> / tau) / (exp(<z, w^n> / tau) + sum over anomaly prompts w of
        exp(<z, w> / tau)))``; 0 or more.
    """
    candidates = torch.cat([prompts.prototypes[:1], prompts.anomalies])  # (1 + M + L, D)
    logits = scale * features.flatten(end_dim=-2) @ candidates.T
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def margin_loss(features: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Keep normal features nearer to the normal prototype than to the anomalous one, equation (5).

    Args:
        features: Features z, of length 1, shape ``(..., D)``.
        prototypes: (w^n, w^a), of length 1, shape ``(2, D)``.

    Returns:
        The mean of ``max(0, |z - w^n|^2 - |z - w^a|^2)``; 0 or more, and 0 once all features are on the right side.
    """
    normal, anomalous = ((features - prototype).square().sum(dim=-1) for prototype in prototypes)
    return F.relu(normal - anomalous).mean()


def alignment_loss(prompts: PromptFeatures) -> torch.Tensor:
    """Keep the means of manual and learnable anomaly prompts together, equation (6).

    Args:
        prompts: Embeddings of the prompts.

    Returns:
        ``|mean of MAP - mean of LAP|^2`` of the embeddings of length 1, values in [0, 4].
    """
    manual, learned = (F.normalize(part, dim=-1).mean(dim=0) for part in (prompts.manual, prompts.learned))
    return (manual - learned).square().sum()
