# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of raw scores, as pure functions.

Where there are anomalous scores, a threshold lies midway between two neighbouring ones. Normal scores alone have an
upper fence, by Tukey's rule (Exploratory Data Analysis, 1977): 1.5 times the distance of their quartiles above the
upper one. Their maximum would be as odd as the oddest image, and too low where a few images happen to be alike. A
promise of at most so many false alarms takes an order statistic of the normal scores instead, see :mod:`.bounds`.

A few shots alone, each judged by the memory of the others or in views of itself, say too little by either. Their
threshold is ``max(2.5 (h s^2)^(1/3), 0.8 h)``: s is how much a shot differs from itself, the geometric mean of how far
its patches are from those elsewhere in it and of how far the oddest is, and h the upper end of the held-out scores. Odd
shots raise h alone, plain backgrounds lower s alone, hence the floor. A single shot says nothing of how parts differ:
the first term is drawn half of the way, as a geometric mean, to 0.145, the threshold of an average part. Factors and
rule are chosen on development data, see ``docs/results.md``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import nct, norm
from torch import Tensor

from .bounds import CONFIDENCE, promised_number
from .score_counts import ScoreHistogram, best_f1

MARGIN = 1e-3
"""How far a threshold lies above the largest score, as a share of it: further than rounding in an export goes."""
_FENCED = 4
"""Normal images from which on quartiles say something of the spread; fewer are just below the threshold."""
_SHOTS = 20
"""Shots from which on their held-out scores are a calibration like any other."""
_FACTOR, _FLOOR, _UPPER = 2.5, 0.8, 0.9  # of the threshold of few shots; quantile of their held-out scores
_AVERAGE = 0.145  # threshold of an average part, of distances that are scaled by the spread of the memory
_REACH = 1.5  # Tukey's: of the quartiles' distance
_GOOD_SHARE = 0.95  # of the good parts, below the quantile of the zone
_SMALLEST = float(torch.finfo(torch.float32).tiny)


class Promise(NamedTuple):
    """A bound of the false alarms that a threshold is to keep; both shares are in (0, 1)."""

    false_alarms: float  # largest share of new good parts above the threshold
    confidence: float = CONFIDENCE  # share of all draws of the calibration parts in which the promise is kept


class Zone(NamedTuple):
    """Raw scores between which too little is known for a verdict: above ``lower``, up to ``upper``."""

    lower: float
    upper: float


def fit_threshold(
    judged: ScoreHistogram, images: ScoreHistogram, promise: Promise | None = None, spreads: Sequence[float] = ()
) -> float | None:
    """Fit the threshold of images or of pixels.

    Args:
        judged: Counted raw scores of images or of pixels.
        images: One score of each image: its own, or the largest of its map.
        promise: A bound of the false alarms; the anomalous scores are then left out.
        spreads: As for :func:`good_threshold`.

    Returns:
        By a promise, or where nothing is anomalous, that of the normal images; else the one with the largest F1 score,
        midway between two scores, or below all if none is normal; ``None`` where there is nothing to fit it to.

    Raises:
        ValueError: If there are too few images for the promise.
    """
    if not judged.has_anomalous or promise is not None:
        return good_threshold(images.normal_scores(), promise, spreads) if images.has_normal else None
    counts = judged.read()
    _, lowest = best_f1(counts.normal, counts.anomalous)
    below = counts.highest[lowest + 1].item() if lowest + 1 < len(counts.lowest) else 0.0
    return between(below, counts.lowest[lowest].item())


def good_threshold(scores: Tensor, promise: Promise | None = None, spreads: Sequence[float] = ()) -> float:
    """Return a threshold from normal scores alone: by a promise, by few shots, else their upper fence, off the scores.

    Args:
        scores: Raw scores of at least one normal image, shape ``(n,)``; the fence of three is just above them.
        promise: A bound of the false alarms.
        spreads: How much each shot differs from itself; empty where the scores are not of shots.

    Raises:
        ValueError: If there are too few scores for the promise.
    """
    scores = scores.double().sort().values
    if promise is not None:
        return between(*_around(scores, len(scores) - promised_number(len(scores), *promise)))
    if spreads and len(scores) < _SHOTS:
        upper = float(scores.quantile(_UPPER))
        own = float(np.median(spreads))
        explained = _FACTOR * float(np.cbrt(upper * own**2))
        if len(spreads) == 1:
            explained = (explained * _AVERAGE) ** 0.5
        return between(max(explained, _FLOOR * upper), None)
    if len(scores) < _FENCED:
        return between(float(scores[-1]), None)
    lower, upper = scores.quantile(torch.tensor([0.25, 0.75], dtype=scores.dtype)).tolist()
    fence = upper + _REACH * (upper - lower)
    below, above = _around(scores, int((scores <= fence).sum()))
    threshold = max(fence, between(below, None))
    return threshold if above is None else min(threshold, between(below, above))


def look_zone(scores: Tensor, threshold: float) -> Zone | None:
    """Return the scores around a threshold for which the verdict is LOOK, because too little is known.

    The 95 % quantile of the good scores is known to an interval alone, whose width follows from their number and their
    spread: for log-normal scores its ends are m + k s, with m and s the mean and the deviation of the logarithms and
    k sqrt(n) the quantiles of a noncentral t distribution (the factors of one-sided tolerance limits), each missed in
    5 % of all draws. This interval, as a factor, is laid around the threshold.

    Args:
        scores: Raw scores of good images that the threshold rests on, shape ``(n,)``.
        threshold: The threshold.

    Returns:
        The zone around the threshold; ``None`` for a single score, which has no spread.
    """
    n = len(scores)
    if n < 2:  # a deviation takes two
        return None
    spread = float(scores.double().clamp_min(_SMALLEST).log().std())
    quantile = norm.ppf(_GOOD_SHARE)
    low, high = nct.ppf([1 - CONFIDENCE, CONFIDENCE], n - 1, quantile * n**0.5) / n**0.5
    lower, upper = (threshold * float(np.exp((factor - quantile) * spread)) for factor in (low, high))
    return Zone(max(lower, _SMALLEST), min(upper, 1 / _SMALLEST))


def between(below: float, above: float | None) -> float:
    """Return the middle of two neighbouring scores, or a thousandth above the first where it is the last; never 0."""
    threshold = below * (1 + MARGIN) if above is None else (below + above) / 2
    return max(threshold, _SMALLEST)


def _around(scores: Tensor, number: int) -> tuple[float, float | None]:
    """Return the score of this number in ascending order, counted from 1, and the next larger one if there is one."""
    below = scores[number - 1]
    above = scores[scores > below]
    return float(below), float(above[0]) if len(above) else None
