# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Is the line still as it was at calibration? Charts of scores, brightness and sharpness, and a gate for bad streaks.

Charts are exponentially weighted moving averages (Roberts, 1959) against calibration values. Of kept libraries, river's
detectors take their reference from the stream itself and state no rate of false alarms. Here the limit follows from a
simulation of good parts, in which mean and deviation are estimated from as many calibration values as there are: a
chart that ignores this alarms far more often than its textbook rate.
"""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

MONTH = 10_000
"""Good parts for which the rate of false alarms is stated, unless another number is given."""
FALSE_ALARMS = 0.05
"""Chance that a chart alarms within so many good parts, although nothing has changed."""
WEIGHT = 0.05
"""Weight of the newest part: half of the average rests on the last 14."""
FEWEST = 10
"""Calibration values that a chart takes at least."""
_CLIP = 3.0  # deviations: one odd part is no drift
_RUNS = 1000


@dataclass(frozen=True)
class Alarm:
    """A chart or the gate has left its limits.

    Attributes:
        measure: ``"score"``, ``"brightness"``, ``"sharpness"`` or ``"gate"``.
        text: One sentence.
    """

    measure: str
    text: str


class Chart:
    """A moving average of one measure that alarms where it leaves what calibration values explain.

    Args:
        measure: Name of the measure.
        calibration: At least ten positive values, shape ``(n,)``; their logarithms are charted.
        month: Good parts for which the rate of false alarms holds.
        false_alarms: Chance of a false alarm within so many parts, in (0, 1).

    Attributes:
        average: The moving average, in deviations of the calibration.
        limit: Largest average that is no alarm.

    Raises:
        ValueError: If there are too few calibration values, or all are the same.
    """

    def __init__(
        self, measure: str, calibration: ArrayLike, month: int = MONTH, false_alarms: float = FALSE_ALARMS
    ) -> None:
        logs = _logs(calibration)
        if len(logs) < FEWEST:
            msg = f"A chart of the {measure} takes {FEWEST} calibration values, got {len(logs)}: give more good parts."
            raise ValueError(msg)
        self.measure, self.month, self.false_alarms = measure, month, false_alarms
        self._mean, self._deviation = float(logs.mean()), float(logs.std(ddof=1))
        if self._deviation == 0:
            msg = f"All calibration values of the {measure} are the same: give other good parts, not copies of one."
            raise ValueError(msg)
        self.limit = limit_of(len(logs), month, false_alarms)
        self.average = 0.0

    def update(self, value: float) -> Alarm | None:
        """Add the value of a part.

        Args:
            value: Its measure.

        Returns:
            An alarm, after which the average starts anew, or ``None``.
        """
        deviation = (float(_logs([value])[0]) - self._mean) / self._deviation
        self.average += WEIGHT * (float(np.clip(deviation, -_CLIP, _CLIP)) - self.average)
        if abs(self.average) <= self.limit:
            return None
        change = "higher" if self.average > 0 else "lower"
        text = (
            f"The {self.measure} is {change} than at calibration: its moving average is {self.average:+.2f} "
            f"deviations, the limit {self.limit:.2f} (of {self.false_alarms:.0%} chance for a false alarm in "
            f"{self.month:,} good parts)."
        )
        self.average = 0.0
        return Alarm(self.measure, text)

    def state(self) -> dict[str, float]:
        """Return average and limit, as a line of ``drift.jsonl`` has them."""
        return {"average": self.average, "limit": self.limit}


class Gate:
    """An alarm where too many of the last parts are not OK or cannot be judged: rather lamp or camera than parts.

    Args:
        size: Number of the last parts.
        share: Largest share of them, in (0, 1).

    Raises:
        ValueError: If one is out of its range.
    """

    def __init__(self, size: int = 50, share: float = 0.3) -> None:
        if size < 1 or not 0 < share < 1:
            msg = f"A gate takes the last 1 or more parts and a share in (0, 1), got {size} and {share}."
            raise ValueError(msg)
        self.share = share
        self._last: deque[bool] = deque(maxlen=size)

    def update(self, good: bool) -> Alarm | None:
        """Add a verdict.

        Args:
            good: Whether the part is OK.

        Returns:
            An alarm, after which counting starts anew, or ``None``.
        """
        self._last.append(not good)
        size, bad = self._last.maxlen or 1, sum(self._last)
        if bad <= self.share * size:
            return None
        text = f"{bad} of the last {len(self._last)} parts are not OK or could not be judged: look at lamp and camera."
        self._last.clear()
        return Alarm("gate", text)


@lru_cache(maxsize=32)
def limit_of(calibration: int, month: int = MONTH, false_alarms: float = FALSE_ALARMS) -> float:
    """Find the limit of a chart by simulation.

    Of 1,000 simulated lines each draws calibration values and then so many good parts from one normal distribution. The
    limit is what the largest average of a line exceeds as often as stated.

    Args:
        calibration: Number of calibration values.
        month: Number of good parts.
        false_alarms: Chance of a false alarm among them.

    Returns:
        The limit, in deviations of the calibration.
    """
    return float(np.quantile(largest_averages(calibration, month), 1 - false_alarms))


@lru_cache(maxsize=32)
def largest_averages(calibration: int, month: int, seed: int = 0) -> NDArray[np.float64]:
    """Simulate lines on which nothing changes.

    Args:
        calibration: Number of calibration values of each.
        month: Number of good parts of each.
        seed: Seed of the draws.

    Returns:
        Largest moving average of each line, in deviations of its calibration, shape ``(1000,)``.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((_RUNS, calibration))
    mean, deviation = drawn.mean(1), drawn.std(1, ddof=1)
    average, largest = np.zeros(_RUNS), np.zeros(_RUNS)
    for _ in range(month):
        value = np.clip((rng.standard_normal(_RUNS) - mean) / deviation, -_CLIP, _CLIP)
        average += WEIGHT * (value - average)
        np.maximum(largest, np.abs(average), out=largest)
    return largest


def brightness(pixels: ArrayLike) -> float:
    """Return the mean of an image in [0, 1].

    Args:
        pixels: Values in [0, 1], shape ``(3, H, W)`` or ``(H, W)``.
    """
    return float(np.asarray(pixels, dtype=np.float64).mean())


def sharpness(pixels: ArrayLike) -> float:
    """Return the mean step between neighbouring pixels as a share of the brightness, which a lamp does not change.

    Args:
        pixels: Values in [0, 1], shape ``(3, H, W)`` or ``(H, W)``.
    """
    gray = np.asarray(pixels, dtype=np.float64)
    gray = gray.mean(0) if gray.ndim == 3 else gray
    steps = np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean()
    return float(steps / max(gray.mean(), 1e-6))


def _logs(values: ArrayLike) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(values, dtype=np.float64), 1e-12))
