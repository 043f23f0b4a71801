# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import pytest

from anople_anomalib.metrics.agreement import Judged
from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.metrics.study import Criteria, Looks, acceptance_study, conclude


def parts(kind: str, right: int, wrong: int = 0) -> list[Judged]:
    """Parts of a kind, the first of them called wrongly."""
    good = kind == "good"
    verdicts = [("NOT OK" if good else "OK")] * wrong + [("OK" if good else "NOT OK")] * right
    return [
        Judged(f"{kind}/{number}.png", kind, str(number), "", "", verdict, 1.0 if verdict == "OK" else 3.0)
        for number, verdict in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("good", "bad", "result"),
    [
        ((59, 0), (149, 0), "pass"),
        ((58, 0), (149, 0), "not proven"),
        ((59, 0), (148, 0), "not proven"),
        ((92, 1), (149, 0), "pass"),
        ((50, 20), (149, 0), "fail"),
        ((59, 0), (30, 20), "fail"),
    ],
)
def test_a_study_passes_where_the_bounds_do(good: tuple[int, int], bad: tuple[int, int], result: str) -> None:
    study = acceptance_study(parts("good", *good) + parts("crack", *bad), Criteria(0.02, 0.05))
    assert study.result == result


def test_what_is_missing_for_a_proof_is_said() -> None:
    found = conclude("Escapes", Rate(0, 100), 0.02, "defective")
    assert found.result == "not proven"
    assert found.text.endswith("49 more defective parts without a wrong verdict would prove it.")
    assert conclude("Escapes", Rate(0, 149), 0.02, "defective").result == "pass"


def test_classes_are_counted_apart() -> None:
    study = acceptance_study(parts("good", 8, 2) + parts("crack", 3, 1) + parts("hole", 5), Criteria())
    assert study.classes == {"crack": Rate(1, 4), "good": Rate(2, 10), "hole": Rate(0, 5)}
    assert (study.false_alarms, study.escapes) == (Rate(2, 10), Rate(1, 9))
    assert study.agreement is None


@pytest.mark.parametrize("verdict", ["LOOK", "ERROR", "NOT OK"])
def test_only_ok_counts_as_good(verdict: str) -> None:
    judged = [Judged("a", kind, "a", "", "", verdict, None) for kind in ("good", "crack")]
    study = acceptance_study(judged, Criteria())
    assert study.classes == {"crack": Rate(0, 1), "good": Rate(1, 1)}
    assert study.errors == (2 if verdict == "ERROR" else 0)


def test_the_third_verdict_saves_what_the_threshold_alone_gets_wrong() -> None:
    scores = {"good": [0.1, 0.9, 1.1, 3.0], "crack": [0.2, 0.95, 1.05, 4.0, 5.0]}
    judged = [
        Judged("", kind, str(part), "", "", "OK" if score <= 1 else "NOT OK", score)
        for kind, values in scores.items()
        for part, score in enumerate(values)
    ]
    assert acceptance_study(judged, Criteria(), 1.0, (0.8, 1.2)).looks == Looks(Rate(2, 4), Rate(2, 5), 1, 1)
    assert acceptance_study(judged, Criteria(), 1.0, None).looks is None


def test_a_part_of_several_trials_counts_once_and_is_wrong_by_one() -> None:
    judged = [
        Judged(f"{trial}/{kind}/{part}", kind, str(part), "", trial, verdict, 1.0)
        for trial in "12"
        for kind, right in (("good", "OK"), ("crack", "NOT OK"))
        for part in range(4)
        for verdict in ["OK" if (trial, kind, part) == ("2", "crack", 3) else right]
    ]
    study = acceptance_study(judged, Criteria())
    assert study.classes == {"crack": Rate(1, 4), "good": Rate(0, 4)}
    assert study.agreement.stations[""].within == Rate(7, 8)


def test_a_study_takes_both_kinds() -> None:
    for kind in ("good", "crack"):
        with pytest.raises(ValueError, match=f"takes good and defective parts, got {kind}"):
            acceptance_study(parts(kind, 3), Criteria())
