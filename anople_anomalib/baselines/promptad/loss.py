# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The losses of PromptAD, equations (4) to (7); pure functions of tensors."""

import torch
from torch.nn import functional as F

from .prompts import PromptFeatures


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


def margin_loss(features: torch.Tensor, prototypes: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """Keep normal features nearer to the normal prototype than to the anomalous one, equation (5).

    Args:
        features: Features z, of length 1, shape ``(..., D)``.
        prototypes: (w^n, w^a), of length 1, shape ``(2, D)``.
        margin: By how much nearer, as a difference of squared distances.

    Returns:
        The mean of ``max(0, |z - w^n|^2 - |z - w^a|^2 + margin)``; 0 or more, and 0 once all features keep the margin.
    """
    normal, anomalous = ((features - prototype).square().sum(dim=-1) for prototype in prototypes)
    return F.relu(normal - anomalous + margin).mean()


def alignment_loss(prompts: PromptFeatures) -> torch.Tensor:
    """Keep the means of manual and learnable anomaly prompts together, equation (6).

    Args:
        prompts: Embeddings of the prompts.

    Returns:
        ``|mean of MAP - mean of LAP|^2`` of the embeddings of length 1, values in [0, 4].
    """
    manual, learned = (F.normalize(part, dim=-1).mean(dim=0) for part in (prompts.manual, prompts.learned))
    return (manual - learned).square().sum()
