# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of raw scores, as pure functions.

Where there are anomalous scores, a threshold lies midway between two neighbouring ones. Normal scores alone have an
upper fence, by Tukey's rule (Exploratory Data Analysis, 1977): 1.5 times the distance of their quartiles above the
upper one. Their maximum would be as odd as the oddest image, and too low where a few images happen to be alike. A
promise of at most so many false alarms takes an order statistic of the normal scores instead, see :mod:`.bounds`.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import nct, norm
from torch import Tensor

from .bounds import CONFIDENCE, promised_number
from .score_histogram import ScoreHistogram, best_f1

MARGIN = 1e-3
"""How far a threshold lies above the largest score, as a share of it: further than rounding in an export goes."""
FEW_IMAGES = 20
"""Normal images below which a threshold comes with a warning."""
FENCED = 4
"""Normal images from which on quartiles say something of the spread; fewer are just below the threshold."""
_REACH = 1.5  # Tukey's: of the quartiles' distance
_SMALLEST = float(torch.finfo(torch.float32).tiny)


class Promise(NamedTuple):
    """A bound of the false alarms that a threshold is to keep.

    Attributes:
        false_alarms: Largest share of new good parts above the threshold, in (0, 1).
        confidence: Share of all draws of the calibration parts in which the promise is kept, in (0, 1).
    """

    false_alarms: float
    confidence: float = CONFIDENCE


class Zone(NamedTuple):
    """Raw scores between which too little is known for a verdict: above ``lower``, up to ``upper``."""

    lower: float
    upper: float


def check_threshold(value: float) -> None:
    """Check a raw threshold.

    Args:
        value: The threshold.

    Raises:
        ValueError: If it is not a positive number.
    """
    if not 0 < value < float("inf"):
        msg = f"A threshold must be a positive number, got {value}."
        raise ValueError(msg)


def fit_threshold(judged: ScoreHistogram, images: ScoreHistogram, promise: Promise | None = None) -> float | None:
    """Fit the threshold of images or of pixels.

    Args:
        judged: Counted raw scores of images or of pixels.
        images: One score of each image: its own, or the largest of its map.
        promise: A bound of the false alarms; the anomalous scores are then left out.

    Returns:
        By a promise, or where nothing is anomalous, that of the normal images; else the one with the largest F1 score;
        ``None`` where there is nothing to fit it to.

    Raises:
        ValueError: If there are too few images for the promise.
    """
    if judged.has_anomalous and promise is None:
        return best_threshold(judged)
    return good_threshold(images.normal_scores(), promise) if images.has_normal else None


def best_threshold(scores: ScoreHistogram) -> float:
    """Return the threshold with the largest F1 score.

    Args:
        scores: Counted raw scores, at least one of them anomalous.

    Returns:
        A positive number: midway between two neighbouring scores, or below the smallest if none is normal.
    """
    counts = scores.read()
    _, lowest = best_f1(counts.normal, counts.anomalous)
    below = counts.highest[lowest + 1].item() if lowest + 1 < len(counts.lowest) else 0.0
    return between(below, counts.lowest[lowest].item())


def good_threshold(scores: Tensor, promise: Promise | None = None) -> float:
    """Return a threshold from normal scores alone: by a promise, else their upper fence, kept off the scores.

    Args:
        scores: Raw scores of at least one normal image, shape ``(n,)``.
        promise: A bound of the false alarms.

    Returns:
        A positive number; of fewer than four scores the fence is just above the largest.

    Raises:
        ValueError: If there are too few scores for the promise.
    """
    scores = scores.double().sort().values
    if promise is not None:
        return between(*_around(scores, len(scores) - promised_number(len(scores), *promise)))
    if len(scores) < FENCED:
        return between(float(scores[-1]), None)
    lower, upper = scores.quantile(torch.tensor([0.25, 0.75], dtype=scores.dtype)).tolist()
    fence = upper + _REACH * (upper - lower)
    below, above = _around(scores, int((scores <= fence).sum()))
    threshold = max(fence, between(below, None))
    return threshold if above is None else min(threshold, between(below, above))


def look_zone(scores: Tensor, threshold: float, share: float = 0.95, confidence: float = CONFIDENCE) -> Zone | None:
    """Return the scores around a threshold for which the verdict is LOOK, because too little is known.

    A quantile of the good scores is known to an interval alone, whose width follows from their number and their spread:
    for log-normal scores its ends are m + k s, with m and s the mean and the deviation of the logarithms and k sqrt(n)
    the quantiles of a noncentral t distribution (the factors of one-sided tolerance limits). This interval, as a
    factor, is laid around the threshold.

    Args:
        scores: Raw scores of good images that the threshold rests on, shape ``(n,)``.
        threshold: The threshold.
        share: Share of the good parts below the quantile, in (0, 1).
        confidence: Confidence of each end, in (0, 1).

    Returns:
        The zone around the threshold; ``None`` for a single score, which has no spread.
    """
    n = len(scores)
    if n < 2:  # a deviation takes two
        return None
    spread = float(scores.double().clamp_min(_SMALLEST).log().std())
    quantile = norm.ppf(share)
    low, high = nct.ppf([1 - confidence, confidence], n - 1, quantile * n**0.5) / n**0.5
    lower, upper = (threshold * float(np.exp((factor - quantile) * spread)) for factor in (low, high))
    return Zone(max(lower, _SMALLEST), min(upper, 1 / _SMALLEST))


def doubt_about(number: int) -> str:
    """Say how much a threshold is worth that normal images alone are behind.

    Args:
        number: How many there are.

    Returns:
        A sentence, or nothing where they are enough.
    """
    if number >= FEW_IMAGES:
        return ""
    behind = f"The threshold rests on {number} good images alone"
    if number < FENCED:
        behind = f"The threshold rests on {number} good images, and about one good part in {number + 1} is above it"
    if number == 1:
        behind = (
            "The threshold rests on one good image (slightly moved copies of it if it is the only shot), which cannot "
            "show how good parts differ: good ones may be above it, and defects below"
        )
    return f"{behind}: set it from {FEW_IMAGES} or more that are no shots (anople threshold --images)."


def between(below: float, above: float | None) -> float:
    """Return a threshold between two neighbouring scores.

    Args:
        below: The score that is not flagged.
        above: The one that is; ``None`` if there is none.

    Returns:
        Their middle, or ``below`` and a thousandth of it; never 0.
    """
    threshold = below * (1 + MARGIN) if above is None else (below + above) / 2
    return max(threshold, _SMALLEST)


def _around(scores: Tensor, number: int) -> tuple[float, float | None]:
    """Return the score of this number in ascending order, counted from 1, and the next larger one if there is one."""
    below = scores[number - 1]
    above = scores[scores > below]
    return float(below), float(above[0]) if len(above) else None
