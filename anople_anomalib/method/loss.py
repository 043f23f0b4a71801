# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of AnoPLe, equations (7) to (11)."""

import torch
from torch import nn
from torch.nn import functional as F

from .decoder import LocalFeatures, interpolations

LATENT_LABEL_SMOOTHING = 0.003
ALIGNMENT_TEMPERATURE = 2.0
FOCAL_GAMMA = 2.0
DICE_SMOOTHING = 1.0


def dice_loss(probabilities: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Compute the dice loss of the abnormal class; a view without an anomaly is best predicted as all zero.

    Args:
        probabilities: Abnormal probability of every pixel, shape ``(V, H, W)``, values in [0, 1].
        masks: Shape ``(V, H, W)``, 1 where anomalous.

    Returns:
        ``1 - (2 |P M| + 1) / (|P| + |M| + 1)``, the mean over the views; a scalar in [0, 1].
    """
    masks = masks.to(probabilities.dtype)
    intersection = (probabilities * masks).sum(dim=(1, 2))
    total = probabilities.sum(dim=(1, 2)) + masks.sum(dim=(1, 2))
    return (1 - (2 * intersection + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).mean()


def pixel_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Compute the pixel-level loss ``L_dice + L_focal``, equation (7).

    Args:
        logits: Logits of (normal, abnormal), shape ``(V, 2, h, w)``; resized to the masks here.
        masks: Simulated ground truth M, shape ``(V, H, W)``, 1 where anomalous.

    Returns:
        A scalar, at least 0.
    """
    odds = logits[:, 1:] - logits[:, :1]  # of two states, the difference says all
    if odds.shape[-2:] != masks.shape[-2:]:
        rows, columns = interpolations(odds, masks.shape[-2:])
        odds = rows @ odds @ columns.T  # as products its gradient takes a fifth of the time
    odds, truth = odds.squeeze(1), masks.to(odds.dtype)  # (V, H, W)
    against = odds * (1 - 2 * truth)  # for the wrong state
    missed = against.sigmoid()  # 1 - p of the true state
    focal = (missed**FOCAL_GAMMA * F.softplus(against)).mean()  # -(1 - p)^2 log p
    return dice_loss((truth - missed).abs(), truth) + focal


def image_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    latent_logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the image-level loss ``L_ce(z+, z-, w) + L_ce(z+, z-_latent, w)``, equation (9).

    Args:
        logits: Logits of (normal, abnormal) of every view, shape ``(V, 2)``.
        labels: Shape ``(V,)``, dtype long, 1 where the view's own mask has an anomalous pixel.
        latent_logits: Logits of the latent anomalies, one per normal view, shape ``(V+, 2)``; ``None`` or of length
            0 drops the second term.

    Returns:
        A scalar, at least 0.
    """
    loss = F.cross_entropy(logits, labels)
    if latent_logits is None or not len(latent_logits):
        return loss
    abnormal = torch.ones(len(latent_logits), dtype=torch.long, device=logits.device)
    # the mean over the normal views and their latent anomalies, of which there are equally many
    normal_terms = F.cross_entropy(logits[labels == 0], abnormal - 1, reduction="sum")
    latent_terms = F.cross_entropy(latent_logits, abnormal, reduction="sum", label_smoothing=LATENT_LABEL_SMOOTHING)
    return loss + (normal_terms + latent_terms) / (2 * len(latent_logits))


def alignment_loss(
    image_embeddings: torch.Tensor,
    local_features: LocalFeatures,
    pixel_logits: torch.Tensor,
    alignment: str = "weighted_sum",
) -> torch.Tensor:
    """Compute the alignment of global and local semantics, ``1 - <z^0, s>`` with s of equation (10).

    The paper normalizes M_hat by a softmax of temperature 2 and does not say over what. It is read as over the pixels:
    the abnormal logits alone make the weights. Over the two states it trains no other model (``docs/training.md``).

    Args:
        image_embeddings: L2-normalized embeddings z^0 of the views, shape ``(V, D)``.
        local_features: Local features D(z) of ``H * W`` pixels.
        pixel_logits: Logits of (normal, abnormal) of every pixel, shape ``(V, 2, H, W)``.
        alignment: ``"weighted_sum"``, or ``"mean"`` for equal weights.

    Returns:
        The mean over the views; a scalar in [0, 2].
    """
    abnormal = pixel_logits[:, 1]
    weights = (abnormal.flatten(1) / ALIGNMENT_TEMPERATURE).softmax(dim=1).view_as(abnormal)
    if alignment == "mean":
        weights = torch.full_like(weights, 1 / weights[0].numel())
    prototype = local_features.mean(weights)  # s
    return (1 - F.cosine_similarity(image_embeddings, prototype, dim=1)).mean()


class AnoPLeLoss(nn.Module):
    """The terms of the final loss ``L = L_pixel + L_img + L_align``, equation (11).

    Args:
        alignment: One of :data:`anople_anomalib.config.ALIGNMENTS`.
    """

    def __init__(self, alignment: str = "weighted_sum") -> None:
        super().__init__()
        self.alignment = alignment

    def forward(
        self,
        masks: torch.Tensor,
        image_embeddings: torch.Tensor,
        image_logits: torch.Tensor,
        latent_logits: torch.Tensor | None = None,
        local_features: LocalFeatures | None = None,
        pixel_logits: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the terms.

        Args:
            masks: Masks of the views, shape ``(V, H, W)``.
            image_embeddings: Shape ``(V, D)``, L2-normalized.
            image_logits: Shape ``(V, 2)``.
            latent_logits: Shape ``(V+, 2)``, see :func:`image_loss`.
            local_features: D(z); ``None`` without a decoder: then only the image-level term remains.
            pixel_logits: Shape ``(V, 2, h, w)``.

        Returns:
            Scalars by name (``image_loss``, ``pixel_loss``, ``align_loss``); their sum is L.
        """
        labels = masks.flatten(1).amax(dim=1).long()
        losses = {"image_loss": image_loss(image_logits, labels, latent_logits)}
        if local_features is None or pixel_logits is None:
            return losses
        losses["pixel_loss"] = pixel_loss(pixel_logits, masks)
        if self.alignment != "none":
            losses["align_loss"] = alignment_loss(image_embeddings, local_features, pixel_logits, self.alignment)
        return losses
