# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Agreement studies against published worked examples."""

import numpy as np
import pytest

from anople_anomalib.metrics.agreement import Judged, agreement_study, cohen, fleiss
from anople_anomalib.metrics.bounds import Rate

FLEISS_1971 = """
    0 0 0 6 0 | 0 3 0 0 3 | 0 1 4 0 1 | 0 0 0 0 6 | 0 3 0 3 0 | 2 0 4 0 0
    0 0 4 0 2 | 2 0 3 1 0 | 2 0 0 4 0 | 0 0 0 0 6 | 1 0 0 5 0 | 1 1 0 4 0
    0 3 3 0 0 | 1 0 0 5 0 | 0 2 0 3 1 | 0 0 5 0 1 | 3 0 0 1 2 | 5 1 0 0 0
    0 2 0 4 0 | 1 0 2 0 3 | 0 0 0 0 6 | 0 1 0 5 0 | 0 2 0 1 3 | 2 0 0 4 0
    1 0 0 4 1 | 0 5 0 1 0 | 4 0 0 0 2 | 0 2 0 4 0 | 1 0 5 0 0 | 0 0 0 0 6
"""
"""Thirty psychiatric patients, six diagnoses each out of five categories (Fleiss, Psychological Bulletin 76, 1971)."""
COHEN_1968 = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
"""200 diagnoses by two judges (Cohen, Psychological Bulletin 70, 1968)."""
AIAG = {  # good parts called bad, bad parts called good, of 102 and 48 verdicts: 34 good and 16 bad parts, three trials
    "A": (5, 3),
    "B": (2, 3),
    "C": (9, 6),
}
"""Counts of the three appraisers of the attribute study in AIAG's Measurement Systems Analysis."""


def observed(part: str, station: str, trial: str, truth: bool, called: bool, score: float | None = None) -> Judged:
    """A verdict on a part that is defective or not, and is called so or not."""
    return Judged("", "crack" if truth else "good", part, station, trial, "NOT OK" if called else "OK", score)


def verdicts(station: str, false_alarms: int, misses: int) -> list[Judged]:
    """34 good and 16 bad parts, three trials each; the first verdicts are the wrong ones."""
    rows = []
    for number in range(150):
        part, trial = divmod(number, 3)
        truth = part >= 34
        wrong = number < false_alarms or 102 <= number < 102 + misses
        rows.append(observed(f"{part:02d}", station, str(trial), truth, truth != wrong))
    return rows


def expand(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """The verdicts of two raters behind their table."""
    pairs = [(a, b) for a, row in enumerate(table) for b, number in enumerate(row) for _ in range(number)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_fleiss_kappa_of_the_psychiatric_patients() -> None:
    counts = np.array(FLEISS_1971.replace("|", " ").split(), dtype=int).reshape(30, 5)
    assert (counts.sum(1) == 6).all()
    kappa = fleiss(counts)
    assert kappa.value == pytest.approx(0.430, abs=5e-4)
    assert kappa.low < 0.43 < kappa.high


def test_cohens_kappa_of_the_two_judges() -> None:
    kappa = cohen(*expand(COHEN_1968))
    assert kappa.value == pytest.approx(0.492, abs=5e-4)
    simple = (0.7 * 0.3 / 200) ** 0.5 / (1 - 0.41)  # Cohen's first standard error, 1960: 70 % agree, 41 % by chance
    assert kappa.high - kappa.value == pytest.approx(1.96 * simple, rel=0.1)


@pytest.mark.parametrize(
    ("table", "value"), [([[44, 6], [3, 97]], 0.863), ([[42, 5], [9, 94]], 0.788), ([[43, 7], [8, 92]], 0.776)]
)
def test_cohens_kappa_of_two_appraisers_as_in_the_manual(table: list[list[int]], value: float) -> None:
    assert cohen(*expand(table)).value == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize(
    ("station", "kappa", "misses", "false_alarms"),
    [("A", 0.88, 6.3, 4.9), ("B", 0.92, 6.3, 2.0), ("C", 0.77, 12.5, 8.8)],
)
def test_a_station_against_the_reference_as_in_the_manual(
    station: str, kappa: float, misses: float, false_alarms: float
) -> None:
    found = agreement_study(verdicts(station, *AIAG[station])).stations[station]
    assert found.against_reference.value == pytest.approx(kappa, abs=6e-3)
    assert 100 * found.miss_rate.value == pytest.approx(misses, abs=0.06)
    assert 100 * found.false_alarm_rate.value == pytest.approx(false_alarms, abs=0.06)


def test_parts_and_trials_are_counted_apart() -> None:
    study = agreement_study([each for name, counts in AIAG.items() for each in verdicts(name, *counts)])
    first = study.stations["A"]  # five wrong verdicts on good parts: all of one, two of another; three on one bad part
    assert first.right_verdicts == Rate(142, 150)
    assert first.effectiveness == Rate(47, 50)
    assert first.within == Rate(49, 50)
    assert (first.missed_parts, first.scrapped_parts) == (Rate(1, 16), Rate(2, 34))
    assert study.between == Rate(46, 50)  # parts 0 (B), 1 (A, C), 2 (C) and the second bad one (C) differ
    assert study.all_right == Rate(45, 50)
    assert set(study.pairs) == {("A", "B"), ("A", "C"), ("B", "C")}
    assert study.pairs["A", "B"].value > study.pairs["B", "C"].value
    assert study.repeatability is None


def test_scores_repeat_with_a_sigma() -> None:
    rows = [
        observed(part, station, str(trial), bad, bad, center + shift + step)
        for part, bad, center in (("a", False, 1.0), ("b", False, 2.0), ("c", True, 5.0))
        for station, shift in (("A", 0.0), ("B", 0.5))  # a bias between stations is no repeatability
        for trial, step in enumerate((-0.1, 0.0, 0.1))
    ]
    found = agreement_study(rows, threshold=3.0).repeatability
    assert found.sigma == pytest.approx(0.1)
    assert found.good_distance == pytest.approx((3 - 2.25) / 0.1)
    assert found.bad_distance == pytest.approx((5.25 - 3) / 0.1)


def test_a_study_of_one_kind_has_no_kappa() -> None:
    study = agreement_study([observed(str(part), "A", trial, False, False) for part in range(5) for trial in "12"])
    assert str(study.fleiss) == "not defined (all verdicts are the same)"
    assert study.stations["A"].within == Rate(5, 5)
    assert study.stations["A"].miss_rate == Rate(0, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "A", "1", True), ("a", "A", "1", True)], "judged twice in trial '1' at station 'A'"),
        (
            [("a", "A", "1", True), ("b", "A", "1", True), ("a", "B", "1", True)],
            "got 0 verdicts on part 'crack/b' at station 'B'",
        ),
    ],
)
def test_designs_that_are_no_study_are_refused(rows: list[tuple[str, str, str, bool]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agreement_study([observed(*row, called=True) for row in rows])
