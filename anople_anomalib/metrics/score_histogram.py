# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Counts of scores in bounded memory, as fine as the scores need it.

Ranking metrics depend on the order of the scores alone, so scores can be counted instead of kept. Rounding them to half
precision first is too coarse: probabilities near 1 and near 0 fall together. Here the floating-point numbers are
numbered in ascending order, as finely towards 1 as towards 0, and every number that occurs has its own count. Only
where more than :data:`CAPACITY` different numbers occur, neighbours fall together, two by two, until there is room.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.distributed
from torch import Tensor
from typing_extensions import Self

Mergeable = TypeVar("Mergeable", bound="_Mergeable")
CAPACITY = 2**18
"""Largest number of different scores that are counted apart: some 8 MB."""

_HALF_BITS = 0x3F000000
"""The bit pattern of 0.5 in float32. The patterns of positive numbers count up with them."""
_ONE_BITS = 0x3F800000
_ONE_KEY = 2 * _HALF_BITS
NORMAL, ANOMALOUS, WEIGHT = range(3)
"""Columns of the counts."""


def score_keys(scores: Tensor) -> Tensor:
    """Turn scores into integers so that the order and the distinctness of float32 numbers are kept.

    Up to 0.5 a number's key is its bit pattern; between 0.5 and 1 it is the mirrored pattern of the distance to 1, so
    that keys without their last bits still tell probabilities near 1 apart.

    Args:
        scores: Finite scores of any shape.

    Returns:
        Integers of dtype int64, of the same shape; 0 stands for a score of 0.
    """
    scores = scores.detach().float() + 0.0  # -0.0 becomes 0.0
    size = scores.abs()
    bits = size.view(torch.int32).long()
    to_one = (1 - size).abs().view(torch.int32).long()
    keys = torch.where(size > 0.5, torch.where(size < 1, _ONE_KEY - to_one, bits + (_ONE_KEY - _ONE_BITS)), bits)
    return torch.where(scores < 0, -keys, keys)


def key_scores(keys: Tensor) -> Tensor:
    """Return the scores that :func:`score_keys` numbers.

    Args:
        keys: Integers of any shape.

    Returns:
        Scores of dtype float64, of the same shape.
    """
    size = keys.abs()
    low, mirrored, high = size.clamp(max=_HALF_BITS), _ONE_KEY - size, size - (_ONE_KEY - _ONE_BITS)
    to_one = 1 - _from_bits(mirrored.clamp(0, _HALF_BITS))
    scores = torch.where(size <= _HALF_BITS, _from_bits(low), torch.where(mirrored > 0, to_one, _from_bits(high)))
    return torch.where(keys < 0, -scores, scores)


def _from_bits(bits: Tensor) -> Tensor:
    return bits.clamp(min=0).int().view(torch.float32).double()


class _Mergeable(Protocol):
    """What counts, and can count what another has counted."""

    def merge(self, other: Self) -> None:
        """Count what another has counted."""


@dataclass(frozen=True)
class Counts:
    """What was counted, in descending order of the scores.

    Attributes:
        lowest: Lowest score of every bin, dtype float64, shape ``(n,)``.
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

    def __len__(self) -> int:
        """Return the number of bins."""
        return len(self.lowest)


class ScoreHistogram:
    """Counts of normal and of anomalous scores.

    What it holds depends on all the scores together, not on the order, the batches or the processes they come in.

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
        keys = score_keys(scores.flatten().cpu().nan_to_num()) >> self.shift
        keys, bins = keys.unique(return_inverse=True)
        truth = anomalous.flatten().cpu().bool()
        counts = torch.zeros(len(keys), 3, dtype=torch.double)
        for column, chosen in ((NORMAL, ~truth), (ANOMALOUS, truth)):
            counts[:, column] = torch.bincount(bins[chosen], minlength=len(keys))
        if weights is not None:
            counts[:, WEIGHT] = torch.bincount(bins, weights.flatten().cpu().double(), minlength=len(keys))
        self._add(keys, counts)

    def merge(self, other: "ScoreHistogram") -> None:
        """Count what another histogram has counted.

        Args:
            other: A histogram of the same capacity.
        """
        shift = max(self.shift, other.shift)
        self.keys, self.counts = _gather(self.keys >> (shift - self.shift), self.counts)
        self.shift = shift
        self._add(other.keys >> (shift - other.shift), other.counts)

    def _add(self, keys: Tensor, counts: Tensor) -> None:
        """Add bins of the same width, then halve their number until they fit."""
        keys, counts = _gather(torch.cat([self.keys, keys]), torch.cat([self.counts, counts]))
        while len(keys) > self.capacity:
            self.shift += 1
            keys, counts = _gather(keys >> 1, counts)
        self.keys, self.counts = keys, counts

    def __len__(self) -> int:
        """Return the number of bins."""
        return len(self.keys)

    @property
    def normal_count(self) -> int:
        """Return how many normal scores were counted."""
        return int(self.counts[:, NORMAL].sum())

    @property
    def has_normal(self) -> bool:
        """Tell whether a normal score was counted."""
        return bool(self.counts[:, NORMAL].any())

    @property
    def has_anomalous(self) -> bool:
        """Tell whether an anomalous score was counted."""
        return bool(self.counts[:, ANOMALOUS].any())

    @property
    def rounding(self) -> float:
        """Bound what rounding has done to the AUROC: half of the pairs that share a bin of several numbers."""
        if not self.shift or not (self.has_normal and self.has_anomalous):
            return 0.0
        normal, anomalous = self.counts[:, NORMAL], self.counts[:, ANOMALOUS]
        return float((normal / normal.sum() * (anomalous / anomalous.sum())).sum() / 2)

    def read(self) -> Counts:
        """Return the counts, from the highest score to the lowest."""
        first = self.keys.flip(0) << self.shift
        last = first + (1 << self.shift) - 1
        normal, anomalous, weight = self.counts.flip(0).T
        return Counts(key_scores(first), key_scores(last), normal, anomalous, weight)


def of_all_processes(counted: list[Mergeable]) -> list[Mergeable]:
    """Add up what all processes have counted: counts alone, whose size does not depend on the number of images.

    Args:
        counted: Histograms, or whatever has a ``merge``, as many in every process.

    Returns:
        As many, the same in every process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return counted
    joint = []
    for own in counted:
        gathered: list[Mergeable] = [own] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, own)
        first, *others = gathered
        for other in others:
            first.merge(other)
        joint.append(first)
    return joint


def _gather(keys: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the counts of equal keys; the keys come back in ascending order."""
    unique, bins = keys.unique(return_inverse=True)
    if len(unique) == len(keys) and bool((keys[1:] > keys[:-1]).all()):
        return keys, counts
    return unique, torch.zeros(len(unique), counts.shape[1], dtype=counts.dtype).index_add_(0, bins, counts)
