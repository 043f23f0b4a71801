# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Is the line still as it was at calibration? A chart of a measure of every part, and a gate for bad streaks.

Charts are exponentially weighted moving averages (Roberts, 1959) against calibration values. Of kept libraries, river's
detectors take their reference from the stream itself and state no rate of false alarms. Here the limit follows from a
simulation of good parts, in which mean and deviation are estimated from as many calibration values as there are: a
chart that ignores this alarms far more often than its textbook rate.
"""

from collections import deque
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

WEIGHT = 0.05
"""Weight of the newest part: half of the average rests on the last 14."""
MONTH = 10_000
"""Good parts for which the rate of false alarms is stated."""
FALSE_ALARMS = 0.05
"""Chance of a false alarm within so many parts."""
_FEWEST = 10  # calibration values
_CLIP = 3.0  # deviations: one odd part is no drift
_LINES = 1000


class Chart:
    """A moving average of one measure that alarms where it leaves the range that calibration values explain.

    Args:
        measure: Name of the measure.
        calibration: At least ten positive values, shape ``(n,)``; their logarithms are charted.
        month: Good parts for which the rate of false alarms holds.
        false_alarms: Chance that it alarms within so many parts although nothing has changed, in (0, 1).

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
        if len(logs) < _FEWEST:
            msg = f"A chart of the {measure} takes {_FEWEST} calibration values, got {len(logs)}: give more good parts."
            raise ValueError(msg)
        self.measure, self.month, self.false_alarms = measure, month, false_alarms
        self._mean, self._deviation = float(logs.mean()), float(logs.std(ddof=1))
        if self._deviation == 0:
            msg = f"All calibration values of the {measure} are the same: give other good parts, not copies of one."
            raise ValueError(msg)
        self.limit = _limit(len(logs), month, false_alarms)
        self.average = 0.0

    def update(self, value: float) -> str | None:
        """Add the measure of a part; return an alarm in one sentence, after which the average starts anew."""
        deviation = (float(_logs([value])[0]) - self._mean) / self._deviation
        self.average += WEIGHT * (float(np.clip(deviation, -_CLIP, _CLIP)) - self.average)
        if abs(self.average) <= self.limit:
            return None
        change = "higher" if self.average > 0 else "lower"
        alarm = (
            f"The {self.measure} is {change} than at calibration: its moving average is {self.average:+.2f} "
            f"deviations, the limit {self.limit:.2f} (of {self.false_alarms:.0%} chance for a false alarm in "
            f"{self.month:,} good parts)."
        )
        self.average = 0.0
        return alarm


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
        self._most = share * size
        self._last: deque[bool] = deque(maxlen=size)

    def update(self, good: bool) -> str | None:
        """Add whether a part is OK; return an alarm in one sentence, after which counting starts anew."""
        self._last.append(not good)
        bad, number = sum(self._last), len(self._last)
        if bad <= self._most:
            return None
        self._last.clear()
        return f"{bad} of the last {number} parts are not OK or could not be judged: look at lamp and camera."


@lru_cache(maxsize=32)
def largest_averages(calibration: int, month: int, seed: int = 0) -> NDArray[np.float64]:
    """Simulate lines on which nothing changes: calibration values and then good parts, all of one normal distribution.

    Returns the largest moving average of each, in deviations of its calibration, shape ``(1000,)``.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((_LINES, calibration))
    mean, deviation = drawn.mean(1), drawn.std(1, ddof=1)
    average, largest = np.zeros(_LINES), np.zeros(_LINES)
    for _ in range(month):
        value = np.clip((rng.standard_normal(_LINES) - mean) / deviation, -_CLIP, _CLIP)
        average += WEIGHT * (value - average)
        np.maximum(largest, np.abs(average), out=largest)
    return largest


def alarms_of_unchanged_lines(calibration: int) -> tuple[int, int]:
    """Count simulated lines that alarm within a month, of all; they are others than those behind the limits."""
    limit = _limit(calibration, MONTH, FALSE_ALARMS)
    return int((largest_averages(calibration, MONTH, seed=1) > limit).sum()), _LINES


def _limit(calibration: int, month: int, false_alarms: float) -> float:
    return float(np.quantile(largest_averages(calibration, month), 1 - false_alarms))


def _logs(values: ArrayLike) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(values, dtype=np.float64), 1e-12))
