# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Losses of the tiny CLIP. All are pure functions of tensors and return a scalar."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .windows import GROUP


def contrast(logits: Tensor, true: Tensor) -> Tensor:
    """Compute a cross entropy in which every true caption counts as right, both ways.

    Args:
        logits: Scaled cosines of images and captions, shape (n, m).
        true: Booleans, same shape. Rows and columns without a true entry are left out.
    """
    total = logits.new_zeros(())
    for scores, right in ((logits, true), (logits.t(), true.t())):
        some = right.any(1)
        chosen = scores[some].masked_fill(~right[some], -torch.inf)
        total = total + (scores[some].logsumexp(1) - chosen.logsumexp(1)).mean()
    return total / 2


def dense_contrast(logits: Tensor, true: Tensor) -> Tensor:
    """Compute the image-to-caption half of ``contrast``, for many patches against few captions."""
    some = true.any(1)
    chosen = logits[some].masked_fill(~true[some], -torch.inf)
    return (logits[some].logsumexp(1) - chosen.logsumexp(1)).mean()


def state_loss(logits: Tensor, states: Tensor) -> Tensor:
    """Compare the normal with the abnormal caption of the same thing, both states weighing the same.

    Args:
        logits: Scaled cosines with the normal and the abnormal caption, shape (n, 2).
        states: 0 normal, 1 abnormal, -1 leave out, shape (n,).
    """
    return sum(F.cross_entropy(logits[states == s], states[states == s]) for s in (0, 1) if (states == s).any()) / 2


def ranking_loss(features: Tensor, labels: Tensor, shots: int, temperature: float = 0.04) -> Tensor:
    """Make defect patches lie farther from the clean bank than the normal patches of the same canvas.

    For defect distances d+ and normal distances d- of one canvas: mean over d+ of log(1 + mean over d- of
    exp((d- - d+) / temperature)); the hardest normal patches weigh most, as they do in an image's maximum.

    Args:
        features: Patch features, shape (n, p, width); rows in groups of four windows.
        labels: 1 defect, 0 normal, -1 leave out, shape (n, p).
        shots: 1 or 2: how many clean windows make the bank; the others are queries.
        temperature: Distance difference that counts as clear.
    """
    groups = F.normalize(features, dim=-1).unflatten(0, (-1, GROUP))  # (g, 4, p, width)
    bank = groups[:, :shots].flatten(1, 2)
    queries = groups[:, shots:].flatten(1, 2)
    distance = 1 - (queries @ bank.transpose(1, 2)).amax(2)  # (g, q)
    wanted = labels.unflatten(0, (-1, GROUP))[:, shots:].flatten(1)
    normal, defect = wanted == 0, wanted == 1
    count = normal.sum(1).clamp(min=1)
    rival = (distance / temperature).masked_fill(~normal, -torch.inf).logsumexp(1) - count.log()  # (g,)
    loss = F.softplus(rival[:, None] - distance / temperature)
    weight = defect / defect.sum(1, keepdim=True).clamp(min=1)
    return (loss * weight).sum() / defect.any(1).sum().clamp(min=1)


def filter_loss(predictions: list[Tensor], energies: Tensor) -> Tensor:
    """Average the squared error of standardized filter energies over the heads; shapes (n, p, energies)."""
    mean, std = energies.mean((0, 1)), energies.std((0, 1)) + 1e-3
    return sum(F.mse_loss(p, (energies - mean) / std) for p in predictions) / len(predictions)


def gram_loss(features: Tensor, energies: Tensor) -> Tensor:
    """Make patches of one canvas alike that filters find alike, and the other way round.

    Both sides are centered per canvas, the energies also divided by their spread there; the cosines between all
    patches of a canvas are compared.

    Args:
        features: Shape (n, p, width); rows in groups of four windows.
        energies: Shape (n, p, energies).
    """
    features, energies = (x.unflatten(0, (-1, GROUP)).flatten(1, 2) for x in (features, energies))
    energies = (energies - energies.mean(1, keepdim=True)) / (energies.std(1, keepdim=True) + 0.05)
    mine = F.normalize(features - features.mean(1, keepdim=True), dim=-1)
    theirs = F.normalize(energies, dim=-1)
    return F.mse_loss(mine @ mine.transpose(1, 2), theirs @ theirs.transpose(1, 2))
