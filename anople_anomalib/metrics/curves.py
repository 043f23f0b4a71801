# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Ranking metrics of counted scores: pure functions of counts in descending order of the scores.

Every count has the shape ``(n,)``, one entry per different score, the highest score first.
"""

import torch
from torch import Tensor


def auroc(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Compute the area under the ROC curve: how often an anomalous score is above a normal one; a tie counts one half.

    Args:
        normal: Normal scores, at least one.
        anomalous: Anomalous scores, at least one.

    Returns:
        A number in [0, 1].
    """
    return torch.trapezoid(_shares(anomalous), _shares(normal))


def average_precision(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Average the precision over all anomalous scores, the step-wise area under the precision-recall curve (AUPR).

    Args:
        normal: Normal scores.
        anomalous: Anomalous scores, at least one.

    Returns:
        A number in [0, 1].
    """
    found = anomalous.cumsum(0)
    precision = found / (found + normal.cumsum(0)).clamp(min=1)
    return (precision * anomalous).sum() / found[-1]


def best_f1(normal: Tensor, anomalous: Tensor) -> tuple[Tensor, int]:
    """Find the largest F1 score over all thresholds.

    Args:
        normal: Normal scores.
        anomalous: Anomalous scores, at least one.

    Returns:
        The F1 score, in [0, 1], and the number of the lowest score that is called anomalous.
    """
    found, flagged = anomalous.cumsum(0), (anomalous + normal).cumsum(0)
    f1 = 2 * found / (flagged + found[-1])  # 2 TP / (TP + FP + TP + FN)
    best = int(f1.argmax())
    return f1[best], best


def aupro(normal: Tensor, region_shares: Tensor, regions: int, fpr_limit: float = 0.3) -> Tensor:
    """Compute the area under the curve of the regions' mean overlap over the false positive rate, up to a limit.

    The curve needs, for every score, the number of normal pixels and, summed over all anomalous regions, the share of
    the region that has this score. Both are sums over images, so the maps themselves need not be kept.

    Args:
        normal: Normal pixels, at least one.
        region_shares: Sum over the regions of the share of its pixels.
        regions: Number of regions, at least one.
        fpr_limit: False positive rate up to which the area is taken, in (0, 1].

    Returns:
        A number in [0, 1].
    """
    fpr, overlap = _shares(normal), torch.cat([region_shares.new_zeros(1), region_shares.cumsum(0) / regions])
    end = int(torch.searchsorted(fpr, fpr_limit, right=True))  # the first point beyond the limit
    if end < len(fpr):
        part = (fpr_limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
        last = torch.lerp(overlap[end - 1], overlap[end], part)
        fpr = torch.cat([fpr[:end], fpr.new_tensor([fpr_limit])])
        overlap = torch.cat([overlap[:end], last[None]])
    return torch.trapezoid(overlap, fpr) / fpr[-1]


def _shares(counts: Tensor) -> Tensor:
    """Return the share of all that is at or above each score, ascending from 0 to 1, shape ``(n + 1,)``."""
    shares = counts.cumsum(0) / counts.sum()
    return torch.cat([shares.new_zeros(1), shares])
