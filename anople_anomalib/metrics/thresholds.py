# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of counted scores.

Where there are anomalous scores, a threshold lies midway between two neighbouring ones. Normal scores alone have an
upper fence, by Tukey's rule (Exploratory Data Analysis, 1977): 1.5 times the distance of their quartiles above the
upper one. Their maximum would be as odd as the oddest image, and too low where a few images happen to be alike.
"""

import logging
from math import ceil
from typing import NamedTuple

import torch

from .curves import best_f1
from .score_histogram import ScoreHistogram

logger = logging.getLogger(__name__)

MARGIN = 1e-3
"""How far a threshold lies above the largest score, as a share of it: further than rounding in an export goes."""
FEW_IMAGES = 20
"""Normal images below which a threshold comes with a warning."""
FENCED = 4
"""Normal images from which on quartiles say something of the spread; fewer are just below the threshold."""
_REACH = 1.5  # Tukey's: of the quartiles' distance
_SMALLEST = float(torch.finfo(torch.float32).tiny)


def check_rules(quantile: float | None, false_alarm_rate: float | None) -> None:
    """Check a rule for thresholds.

    Args:
        quantile: Share of the normal images below the thresholds, or ``None``.
        false_alarm_rate: Wanted share of new normal images above them, or ``None``.

    Raises:
        ValueError: If one is out of its range, or both are given.
    """
    if quantile is not None and not 0 < quantile <= 1:
        msg = f"quantile must be in (0, 1], got {quantile}."
        raise ValueError(msg)
    if false_alarm_rate is not None and not 0 < false_alarm_rate < 1:
        msg = f"false_alarm_rate must be in (0, 1), got {false_alarm_rate}."
        raise ValueError(msg)
    if quantile is not None and false_alarm_rate is not None:
        msg = f"Give quantile or false_alarm_rate, not both, got {quantile} and {false_alarm_rate}."
        raise ValueError(msg)


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


def warn_of_few(number: int, false_alarm_rate: float | None = None) -> None:
    """Log a warning where too few normal images are behind a threshold.

    Args:
        number: How many there are.
        false_alarm_rate: The rate that was asked for, if one was.
    """
    if false_alarm_rate is not None and number < (needed := assured_images(false_alarm_rate)):
        logger.warning(
            "A false-alarm rate of %g takes %d normal images, there are %d: the thresholds are just above the "
            "largest score, and about one normal image in %d will be above.",
            false_alarm_rate,
            needed,
            number,
            number + 1,
        )
    elif number < FEW_IMAGES:
        logger.warning("The thresholds rest on %d normal images only; %d are better.", number, FEW_IMAGES)


def doubt_about(number: int) -> str:
    """Say what is to be thought of a threshold that normal images alone are behind.

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


def fit_threshold(
    judged: ScoreHistogram,
    images: ScoreHistogram,
    quantile: float | None = None,
    false_alarm_rate: float | None = None,
) -> float | None:
    """Fit the threshold of images or of pixels.

    Args:
        judged: Counted raw scores of what is judged, images or pixels.
        images: One score of each image: its own, or the largest of its map.
        quantile: As for :func:`threshold_for`.
        false_alarm_rate: Likewise.

    Returns:
        By a rule, or where nothing is anomalous, that of the normal images; else the one with the largest F1 score;
        ``None`` where there is nothing to fit it to.
    """
    follows = images.has_normal and (quantile is not None or false_alarm_rate is not None)
    if judged.has_anomalous and not follows:
        return best_threshold(judged)
    return threshold_for(images, quantile, false_alarm_rate) if images.has_normal else None


def best_threshold(scores: ScoreHistogram) -> float:
    """Return the threshold with the largest F1 score.

    Args:
        scores: Counted raw scores, at least one of them anomalous.

    Returns:
        A positive number: midway between two neighbouring scores, or below the smallest if none is normal.
    """
    counts = scores.read()
    _, lowest = best_f1(counts.normal, counts.anomalous)
    below = counts.highest[lowest + 1].item() if lowest + 1 < len(counts) else 0.0
    return between(below, counts.lowest[lowest].item())


def threshold_for(
    scores: ScoreHistogram, quantile: float | None = None, false_alarm_rate: float | None = None
) -> float:
    """Return a threshold from normal scores alone: the fence of all of them, or one that follows a rule.

    Args:
        scores: Counted raw scores, at least one of them normal; anomalous ones are left out.
        quantile: Share of these normal scores that are below.
        false_alarm_rate: Share of new normal scores that may be above, on average over such draws of n scores: the
            number k of scores below is the smallest with ``k / (n + 1) >= 1 - rate``.

    Returns:
        A positive number.
    """
    counts = scores.read()
    numbers = counts.normal.flip(0).long()
    normal = _Sorted(*(bins.flip(0).repeat_interleave(numbers) for bins in (counts.lowest, counts.highest)))
    total = len(normal.highest)
    if false_alarm_rate is not None:
        return between(*normal.around(min(total, ceil((1 - false_alarm_rate) * (total + 1) - 1e-9))))
    if quantile is not None:
        return between(*normal.around(max(1, ceil(quantile * total - 1e-9))))
    return _fence(normal)


class _Sorted(NamedTuple):
    """Scores in ascending order, shape ``(n,)``: the ends of the bins that they were counted in."""

    lowest: torch.Tensor
    highest: torch.Tensor

    def around(self, number: int) -> tuple[float, float | None]:
        """Return the score of this number, counted from 1, and the next larger one if there is one."""
        below = self.highest[number - 1]
        above = self.lowest[self.lowest > below]
        return below.item(), above[0].item() if len(above) else None


def _fence(scores: _Sorted) -> float:
    """Return the upper fence of scores, kept off the scores themselves; of too few, just above the largest."""
    if len(scores.highest) < FENCED:
        return between(scores.highest[-1].item(), None)
    lower, upper = scores.highest.quantile(torch.tensor([0.25, 0.75], dtype=scores.highest.dtype)).tolist()
    fence = upper + _REACH * (upper - lower)
    below, above = scores.around(int((scores.highest <= fence).sum()))
    threshold = max(fence, between(below, None))
    return threshold if above is None else min(threshold, between(below, above))


def assured_images(false_alarm_rate: float) -> int:
    """Return how many normal images a false-alarm rate needs before it can be kept to."""
    return ceil(1 / false_alarm_rate - 1e-9) - 1


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
