# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from anople_anomalib.metrics.drift import WEIGHT, Chart, Gate, largest_averages

PARTS_AN_HOUR = 60
NOISE = 0.02
"""Spread of the brightness from part to part."""


def dimming(hour: float) -> float:
    """Light of a lamp that loses 1 % an hour."""
    return 0.99**hour


def test_a_lamp_that_dims_alarms_before_the_first_escape() -> None:
    """Scores of defects fall with the light; the weakest of them is 30 % above the threshold when the line starts."""
    rng = np.random.default_rng(0)
    chart = Chart("brightness", 0.5 * np.exp(NOISE * rng.standard_normal(50)))
    first_escape = np.log(1 / 1.3) / np.log(0.99)
    for part in range(100 * PARTS_AN_HOUR):
        hour = part / PARTS_AN_HOUR
        if alarm := chart.update(0.5 * dimming(hour) * np.exp(NOISE * rng.standard_normal())):
            break
    assert alarm is not None
    assert "brightness is lower than at calibration" in alarm
    assert hour < 4 < first_escape


def chart_of(calibration: int, month: int = 10_000) -> Chart:
    """A chart over so many calibration values."""
    values = np.exp(0.3 * np.random.default_rng(3).standard_normal(calibration))
    return Chart("score", values, month)


@pytest.mark.parametrize("calibration", [20, 100])
def test_false_alarms_are_as_rare_as_stated(calibration: int) -> None:
    """Other lines than those of the simulation behind the limit; a log-normal measure of any level and spread."""
    limit = chart_of(calibration).limit
    alarms = np.mean(largest_averages(calibration, 10_000, seed=1) > limit)
    assert alarms == pytest.approx(0.05, abs=0.02)


def test_a_chart_computes_the_average_of_the_simulation() -> None:
    rng = np.random.default_rng(3)
    values = np.exp(0.3 * rng.standard_normal(30))
    chart = Chart("score", values, month=100)
    logs, average = np.log(values), 0.0
    for value in (1.1, 0.9, 1e6):
        average += WEIGHT * (min(3.0, (np.log(value) - logs.mean()) / logs.std(ddof=1)) - average)
        assert chart.update(value) is None
        assert chart.average == pytest.approx(average)


def test_few_calibration_values_have_a_wider_limit() -> None:
    textbook = 3 * (WEIGHT / (2 - WEIGHT)) ** 0.5
    assert chart_of(10).limit > chart_of(50).limit > chart_of(500).limit > textbook


def test_an_alarm_starts_anew() -> None:
    chart = Chart("score", np.exp(0.1 * np.random.default_rng(0).standard_normal(50)), month=100)
    alarms = [chart.update(1.5) is not None for _ in range(60)]
    assert sum(alarms) >= 2
    assert not alarms[alarms.index(True) + 1]


def test_a_chart_needs_calibration() -> None:
    with pytest.raises(ValueError, match="takes 10 calibration values, got 3"):
        Chart("score", [1, 2, 3])
    with pytest.raises(ValueError, match="score are the same"):
        Chart("score", [1] * 20)


def test_a_gate_alarms_on_a_bad_streak() -> None:
    gate = Gate(size=20, share=0.25)
    verdicts = [True] * 40 + [False] * 6
    found = [gate.update(good) for good in verdicts]
    assert [alarm is not None for alarm in found] == [False] * 45 + [True]
    assert "6 of the last 20 parts" in found[-1]
    assert gate.update(False) is None  # anew
    for size, share in ((0, 0.5), (10, 1.0)):
        with pytest.raises(ValueError, match="A gate takes"):
            Gate(size, share)
