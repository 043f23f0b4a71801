# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Counted rates with exact bounds: k of n parts, and the largest true rate that would still show so few.

A bound of Clopper and Pearson (Biometrika 26, 1934) keeps its promise whatever the true rate is: it is exceeded in at
most 5 % of all studies. Thresholds by promise are order statistics of good scores (Wilks, 1941), with the same bound.
"""

import re
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr
from scipy.stats import binomtest

GOOD = "good"
"""Class of the parts without a defect."""
_SERIAL = re.compile(r"/NG/([^/]+)/S\d+/[^/]+$")  # Real-IAD: kind of defect, serial number of the part, image
CONFIDENCE = 0.95
"""Confidence of every bound that does not say another."""
WISHES = (0.05, 0.02, 0.01, 0.001)
"""Rates that somebody may wish to promise."""
_MOST = 2**31 - 1  # parts, of which SciPy counts no more


def defect_of(path: str | Path) -> str:
    """Return the kind of defect on an image: its folder, in Real-IAD (``NG/AK/S0001``) the one above that."""
    found = _SERIAL.search(f"/{Path(path).as_posix()}")
    return found[1] if found else Path(path).parent.name


@dataclass(frozen=True)
class Rate:
    """k of n parts."""

    k: int  # parts that count, such as false alarms among the good ones
    n: int  # all parts
    confidence: float = CONFIDENCE  # of the bounds, in (0, 1)

    def __post_init__(self) -> None:
        """Refuse numbers that are no rate."""
        if not 0 <= self.k <= self.n:
            msg = f"A rate is k of n parts with 0 <= k <= n, got {self.k} of {self.n}."
            raise ValueError(msg)
        _require_share("confidence", self.confidence)

    @property
    def value(self) -> float:
        """The share k / n in [0, 1]; NaN where nothing was counted."""
        return self.k / self.n if self.n else float("nan")

    @property
    def at_most(self) -> float:
        """Exact one-sided upper bound of the true rate, in [0, 1]."""
        return self._ends("less")[1] if self.n else 1.0

    @property
    def at_least(self) -> float:
        """Exact one-sided lower bound of the true rate, in [0, 1]."""
        return self._ends("greater")[0] if self.n else 0.0

    def _ends(self, alternative: str) -> tuple[float, float]:
        interval = binomtest(self.k, self.n, alternative=alternative).proportion_ci(self.confidence, method="exact")
        return float(interval.low), float(interval.high)

    def further_parts(self, rate: float) -> int:
        """Return how many more parts, none of which counts, would bring the upper bound down to a rate in (0, 1)."""
        return max(0, parts_needed(rate, self.confidence, self.k) - self.n)

    def wishes(self) -> str:
        """Say how many more parts, none of which counts, would prove the rates of :data:`WISHES`."""
        missing = [(wish, self.further_parts(wish)) for wish in WISHES]
        proofs = ", ".join(f"{number:,} prove {percent(wish)}" for wish, number in missing if number)
        return f"None of them wrong, so many more parts would do: {proofs}." if proofs else ""

    def __str__(self) -> str:
        """Say k of n, the rate and its upper bound."""
        return self._said("at most", self.at_most)

    def with_lower_bound(self) -> str:
        """Say k of n, the rate and its lower bound, for a rate that should be high."""
        return self._said("at least", self.at_least)

    def _said(self, side: str, bound: float) -> str:
        if not self.n:
            return "0 of 0"
        sure = f"{side} {percent(bound)} with {percent(self.confidence)} confidence"
        return f"{self.k} of {self.n} ({percent(self.value)}; {sure})"


def together(rates: Collection[Rate]) -> Rate:
    """Return the rate of all parts of several classes."""
    return Rate(sum(rate.k for rate in rates), sum(rate.n for rate in rates))


def percent(share: float) -> str:
    """Return a share as text in percent with three digits at most, such as ``18.3 %`` or ``0.0998 %``."""
    return f"{100 * share:.3g} %"


def parts_needed(rate: float, confidence: float = CONFIDENCE, k: int = 0) -> int:
    """Return the smallest n for which the upper bound of k of n is at most a rate; both shares are in (0, 1)."""
    _require_share("rate", rate)
    _require_share("confidence", confidence)
    return bisect_left(range(_MOST), True, lo=k + 1, key=lambda n: bool(_promises(k, n, rate, confidence)))


def promised_number(n: int, rate: float, confidence: float = CONFIDENCE) -> int:
    """Return how many of n good scores may lie above a threshold that promises a rate of false alarms.

    A new good part is above the k-th largest of n scores with a probability that exceeds the rate in at most
    1 - confidence of all such draws. It takes no distribution of the scores, only that parts are drawn alike.

    Raises:
        ValueError: If no threshold keeps it; it says how many parts are missing.
    """
    needed = parts_needed(rate, confidence)
    if n < needed:
        msg = (
            f"At most {percent(rate)} of false alarms with {percent(confidence)} confidence takes {needed} good parts, "
            f"there are {n}: {needed - n} more are missing."
        )
        raise ValueError(msg)
    return int(np.flatnonzero(_promises(np.arange(n), n, rate, confidence))[-1])


def _promises(k: ArrayLike, n: ArrayLike, rate: float, confidence: float) -> np.ndarray:
    """Return whether the upper bound of k of n is at most a rate: P(at most k of n) at this rate is small enough."""
    return bdtr(k, n, rate) <= (1 - confidence) * (1 + 1e-12)


def _require_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        msg = f"{name} must be in (0, 1), got {value}."
        raise ValueError(msg)
