# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Counts of scores in bounded memory, and the ranking metrics that follow from them.

Kept instead of torchmetrics' binned metrics and anomalib's AUPRO, measured on maps of 256 x 256 of tiles, cookies and
bricks: 5,000 bins of torchmetrics are within 0.0002 of the exact AUROC, AUPR and F1, but take 2 s an image, and its
sigmoid makes one number of raw scores beyond 1 (AUROC off by 0.96); anomalib's AUPRO is exact and keeps 0.5 MB an
image. These counts are within 0.00001 of exact at 8 to 12 ms an image and 8 MB in all.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CAPACITY = 2**18
"""Largest number of different scores that are counted apart: some 8 MB."""
NORMAL, ANOMALOUS, WEIGHT = range(3)
"""Columns of the counts."""
_WITHOUT_SIGN = 0x7FFFFFFF


class Counts(NamedTuple):
    """Counted scores in descending order of the scores; every field has shape ``(n,)``, an entry per bin.

    Attributes:
        lowest: Lowest score of every bin, dtype float64.
        highest: Highest score of every bin; the same as ``lowest`` where a bin is one number.
        normal: Normal scores in every bin.
        anomalous: Anomalous scores in every bin.
        weight: Sum of the weights in every bin.
    """

    lowest: Tensor
    highest: Tensor
    normal: Tensor
    anomalous: Tensor
    weight: Tensor


class ScoreHistogram:
    """Counts of normal and of anomalous scores, a bin for every float32 number that occurs.

    Only where more than ``capacity`` numbers occur, neighbours fall together, two by two, until there is room. The
    counts depend on all the scores together, not on the order or the batches they come in.

    Args:
        capacity: Largest number of bins.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.shift = 0  # bits that the keys lack
        self.keys = torch.zeros(0, dtype=torch.long)
        self.counts = torch.zeros(0, 3, dtype=torch.double)

    def update(self, scores: Tensor, anomalous: Tensor, weights: Tensor | None = None) -> None:
        """Count scores.

        Args:
            scores: Scores of any shape; those that are not finite count as the largest finite ones, NaN as 0.
            anomalous: Whether they are anomalous, of the same shape.
            weights: What each adds to its bin's weight, of the same shape; ``None`` adds nothing.

        Raises:
            ValueError: If there are more truths than scores, or fewer.
        """
        if scores.numel() != anomalous.numel():
            msg = f"Scores and truth must be of one size, got {tuple(scores.shape)} and {tuple(anomalous.shape)}."
            raise ValueError(msg)
        keys, bins = (_keys(scores.flatten().cpu().nan_to_num()) >> self.shift).unique(return_inverse=True)
        truth = anomalous.flatten().cpu().bool()
        counts = torch.zeros(len(keys), 3, dtype=torch.double)
        for column, chosen in ((NORMAL, ~truth), (ANOMALOUS, truth)):
            counts[:, column] = torch.bincount(bins[chosen], minlength=len(keys))
        if weights is not None:
            counts[:, WEIGHT] = torch.bincount(bins, weights.flatten().cpu().double(), minlength=len(keys))
        self.keys, self.counts = _gather(torch.cat([self.keys, keys]), torch.cat([self.counts, counts]))
        while len(self.keys) > self.capacity:
            self.shift += 1
            self.keys, self.counts = _gather(self.keys >> 1, self.counts)

    @property
    def has_normal(self) -> bool:
        """Whether a normal score was counted."""
        return bool(self.counts[:, NORMAL].any())

    @property
    def has_anomalous(self) -> bool:
        """Whether an anomalous score was counted."""
        return bool(self.counts[:, ANOMALOUS].any())

    def normal_scores(self) -> Tensor:
        """Return the normal scores in ascending order, dtype float64: exact while the capacity was not reached."""
        return _scores(self.keys << self.shift).repeat_interleave(self.counts[:, NORMAL].long())

    def read(self) -> Counts:
        """Return the counts, from the highest score to the lowest."""
        first = self.keys.flip(0) << self.shift
        return Counts(_scores(first), _scores(first + (1 << self.shift) - 1), *self.counts.flip(0).T)


def _keys(scores: Tensor) -> Tensor:
    """Turn finite scores into integers that count up with them: the bit patterns of float32 numbers do."""
    bits = (scores.detach().float() + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    return torch.where(bits < 0, -(bits & _WITHOUT_SIGN), bits)


def _scores(keys: Tensor) -> Tensor:
    """Return the scores behind keys, dtype float64."""
    size = keys.abs().int().view(torch.float32).double()
    return torch.where(keys < 0, -size, size)


def _gather(keys: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the counts of equal keys; the keys come back in ascending order."""
    unique, bins = keys.unique(return_inverse=True)
    return unique, torch.zeros(len(unique), counts.shape[1], dtype=counts.dtype).index_add_(0, bins, counts)


def auroc(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Compute the area under the ROC curve: how often an anomalous score is above a normal one; a tie counts one half.

    Args:
        normal: Counts of normal scores, shape ``(n,)``, the highest score first; at least one.
        anomalous: Counts of anomalous scores, likewise.

    Returns:
        A number in [0, 1].
    """
    return torch.trapezoid(_shares(anomalous), _shares(normal))


def average_precision(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Average the precision over all anomalous scores, the step-wise area under the precision-recall curve (AUPR).

    Args:
        normal: Counts as for :func:`auroc`.
        anomalous: Likewise, at least one.

    Returns:
        A number in [0, 1].
    """
    found = anomalous.cumsum(0)
    precision = found / (found + normal.cumsum(0)).clamp(min=1)
    return (precision * anomalous).sum() / found[-1]


def best_f1(normal: Tensor, anomalous: Tensor) -> tuple[Tensor, int]:
    """Find the largest F1 score over all thresholds.

    Args:
        normal: Counts as for :func:`auroc`.
        anomalous: Likewise, at least one.

    Returns:
        The F1 score, in [0, 1], and the number of the lowest bin that is called anomalous.
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
        normal: Counts of normal pixels, shape ``(n,)``, the highest score first; at least one.
        region_shares: Sum over the regions of the share of its pixels, likewise.
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
