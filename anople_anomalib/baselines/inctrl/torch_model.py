# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of InCTRL: residuals between an image and a context of normal images, learned from other data.

Paper: Zhu and Pang, "Toward Generalist Anomaly Detection via In-context Residual Learning with Few-shot Sample
Prompts", CVPR 2024, arXiv:2403.06495. The numbers of the equations are this package's own:

(1) ``M = 1/3 sum over l of min over r in R_l of (1 - <F_l, r>) / 2``: patch residuals; F_l are the patch features of
    CLIP's own path after block l of (7, 9, 11), R_l those of all images of the context.
(2) ``s_i = sigmoid(eta(psi(z) - mean over the context of psi(z')))``: image residual; z is the image embedding, psi the
    adapter, two linear layers with ReLU that meet at a quarter of the width (640-160-640), eta a small head.
(3) ``s_a = softmax(<z, w^n> / tau, <z, w^a> / tau)``, its second value: text prior; w^n and w^a are the compositional
    ensembles of both states.
(4) ``h = sigmoid(phi(M + s_i + s_a))``, both scores added to every patch; phi is another small head.
(5) ``s = (h + max M) / 2``: the score.
(6) ``L = focal(s, y) + focal(s_i, y)`` with ``focal(p, y) = -(1 - p_y)^2 log p_y``, p_y the probability of the label y.

Towers and memory banks are AnoPLe's (:mod:`anople_anomalib.method`).
"""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.backbones.outputs import VisualFeatures
from anople_anomalib.baselines.around_clip import EnsembleModel, abnormal_probability

_HEAD_WIDTHS = (128, 64)
_REDUCTION = 4  # of the adapter


class InCTRLModel(EnsembleModel):
    """InCTRL: an adapter and two heads over a frozen CLIP, and a context of the shots.

    Args:
        clip: The frozen CLIP.
        layers: 1-based numbers of the blocks of the patch residuals.
    """

    def __init__(self, clip: FrozenCLIP, layers: Sequence[int] = (7, 9, 11)) -> None:
        super().__init__(clip, layers)
        width, (height, columns) = clip.embed_dim, clip.visual.grid
        self.adapter = nn.Sequential(
            nn.Linear(width, width // _REDUCTION, bias=False),
            nn.ReLU(),
            nn.Linear(width // _REDUCTION, width, bias=False),
            nn.ReLU(),
        )  # psi
        self.image_head, self.holistic_head = _head(width), _head(height * columns)  # eta, phi
        self.register_buffer("prototype", torch.zeros(width))  # mean of psi(z') over the context
        self.prototype: torch.Tensor

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute image embeddings and the patch features of every layer, one row per image."""
        visual = self.encode(images)
        return (visual.image_embedding, *visual.layers)

    def fit(self, features: Sequence[torch.Tensor]) -> None:
        """Take the shots as the context.

        Args:
            features: Image embeddings and patch features of all shots, from :meth:`features`.
        """
        embeddings, *layers = features
        self.prototype = self.adapter(embeddings.float()).mean(dim=0)
        self.memory_banks.build(layers)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images; the method has no map.

        Args:
            images: Normalized images, shape ``(B, 3, h, w)``.

        Returns:
            ``pred_score`` (5) of shape ``(B, 1)``, values in [0, 1].

        Raises:
            RuntimeError: If there are no shots.
        """
        self.require_shots()
        visual = self.encode(images)
        residuals = self.memory_banks(visual.layers)
        score, _ = self.scores(visual.image_embedding, residuals, self.prototype, self.text_features)
        return InferenceBatch(pred_score=score.unsqueeze(1))

    def scores(
        self, embeddings: torch.Tensor, residuals: torch.Tensor, prototypes: torch.Tensor, texts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute equations (2) to (5).

        Args:
            embeddings: Image embeddings z, not normalized, shape ``(B, D)``.
            residuals: M, shape ``(B, n)``.
            prototypes: Mean of the adapted embeddings of the context, shape ``(D,)``, or ``(B, D)`` for contexts of
                their own.
            texts: (w^n, w^a), shape ``(2, D)``, or ``(B, 2, D)`` for texts of their own.

        Returns:
            s (5) and s_i (2), shape ``(B,)`` each, values in [0, 1].
        """
        image = self.image_head(self.adapter(embeddings.float()) - prototypes)  # (2), (B, 1)
        unit = F.normalize(embeddings.float(), dim=-1).unsqueeze(1)
        prior = abnormal_probability(unit, texts, self.clip.logit_scale)  # (3), (B, 1)
        holistic = self.holistic_head(residuals.float() + image + prior)  # (4), (B, 1)
        return (holistic.squeeze(1) + residuals.amax(dim=1)) / 2, image.squeeze(1)  # (5), (2)

    def losses(
        self, queries: VisualFeatures, context: VisualFeatures, texts: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute the terms of equation (6).

        Args:
            queries: Features of B labeled images.
            context: Features of ``B * S`` normal images, S for every query, one query's behind the other's.
            texts: Texts of the queries' categories, shape ``(B, 2, D)``.
            labels: Shape ``(B,)``, 1 where anomalous.

        Returns:
            The terms by name; their sum is minimized.
        """
        number = len(labels)
        layers = [layer.unflatten(0, (number, -1)) for layer in context.layers]  # (B, S, n, d_v) each
        prototypes = self.adapter(context.image_embedding.float()).unflatten(0, (number, -1)).mean(dim=1)
        residuals = patch_residuals(queries.layers, layers)
        score, image = self.scores(queries.image_embedding, residuals, prototypes, texts)
        return {"score": focal_loss(score, labels), "image": focal_loss(image, labels)}


def _head(width: int) -> nn.Sequential:
    """Return a small head from vectors to probabilities of shape ``(B, 1)``."""
    first, second = _HEAD_WIDTHS
    return nn.Sequential(
        nn.Linear(width, first),
        nn.ReLU(),
        nn.BatchNorm1d(first),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.BatchNorm1d(second),
        nn.Linear(second, 1),
        nn.Sigmoid(),
    )


def patch_residuals(queries: Sequence[torch.Tensor], context: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compute equation (1) for queries with contexts of their own.

    The axes of layers, images and patches are kept apart. In the authors' program a reshape takes the axis of layers
    for that of images, so that in a batch of more than one an image is compared with features of other images.

    Args:
        queries: Patch features of every layer, shape ``(B, n, d)`` each.
        context: Patch features of every query's context, shape ``(B, S, n, d)`` for each layer.

    Returns:
        M, shape ``(B, n)``, values in [0, 1].
    """
    similarities = [
        (F.normalize(layer.float(), dim=-1) @ F.normalize(others.float().flatten(1, 2), dim=-1).mT).amax(dim=-1)
        for layer, others in zip(queries, context, strict=True)
    ]
    return (0.5 * (1 - torch.stack(similarities))).clamp(0, 1).mean(dim=0)


def focal_loss(probabilities: torch.Tensor, labels: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """Compute the focal loss of probabilities, equation (6).

    Args:
        probabilities: Of the abnormal state, shape ``(B,)``, values in [0, 1].
        labels: Shape ``(B,)``, 1 where anomalous.
        gamma: Exponent by which images that are told well count less.

    Returns:
        The mean of ``-(1 - p_y)^gamma log p_y``; 0 or more.
    """
    true = torch.where(labels > 0, probabilities, 1 - probabilities)  # p_y
    return -((1 - true) ** gamma * true.clamp_min(torch.finfo(true.dtype).eps).log()).mean()
