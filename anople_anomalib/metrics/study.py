# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The acceptance study: known good and known bad parts against criteria that were stated before.

Rates are per part: a part that was pictured in several trials is wrong where one of its verdicts is. Only OK is good: a
defective part escapes by OK alone, and a good part whose verdict is NOT OK, LOOK or an error is a false alarm.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .agreement import AgreementStudy, Observation, agreement_study
from .bounds import CONFIDENCE, Rate, percent
from .category_scores import GOOD

_OK, _ERROR = "OK", "ERROR"
PASS, FAIL, NOT_PROVEN = "pass", "fail", "not proven"


class Judged(NamedTuple):
    """One picture of one part, and its verdict.

    Attributes:
        path: The file.
        kind: ``"good"``, or the name of the defect.
        part: Name of the part.
        station: Name of the station.
        trial: Name of the trial.
        verdict: As in a row of ``predictions.csv``.
        score: Raw score; ``None`` where there is none.
        error: Why there is no verdict.
    """

    path: str
    kind: str
    part: str
    station: str
    trial: str
    verdict: str
    score: float | None
    error: str = ""


@dataclass(frozen=True)
class Criteria:
    """Limits that are stated before the study.

    Attributes:
        max_escapes: Largest share of defective parts that are called OK, in (0, 1).
        max_false_alarms: Largest share of good parts that are not, in (0, 1).
        confidence: Confidence with which both are to hold, in (0, 1).
    """

    max_escapes: float = 0.02
    max_false_alarms: float = 0.05
    confidence: float = CONFIDENCE


class Conclusion(NamedTuple):
    """A criterion and its result: ``"pass"``, ``"fail"`` or ``"not proven"``, and one sentence."""

    criterion: str
    result: str
    text: str


@dataclass(frozen=True)
class Looks:
    """Counts of the third verdict, LOOK, whether it was given or would be.

    Attributes:
        good: Good parts in the zone.
        bad: Defective parts in the zone.
        escapes_saved: Defective parts in the zone that the threshold alone calls OK.
        false_alarms_saved: Good parts in the zone that the threshold alone calls not OK.
    """

    good: Rate
    bad: Rate
    escapes_saved: int
    false_alarms_saved: int


@dataclass(frozen=True)
class Study:
    """Result of an acceptance study.

    Attributes:
        classes: Parts called wrongly by class: of good ones the false alarms, of each defect the escapes.
        escapes: Defective parts that are called OK.
        false_alarms: Good parts that are not.
        errors: Pictures without a verdict.
        conclusions: The result of each criterion.
        looks: Counts of the third verdict; ``None`` where no zone is known.
        agreement: Agreement of trials and stations; ``None`` without repeats.
    """

    classes: dict[str, Rate]
    escapes: Rate
    false_alarms: Rate
    errors: int
    conclusions: list[Conclusion]
    looks: Looks | None
    agreement: AgreementStudy | None

    @property
    def result(self) -> str:
        """``"fail"`` if one criterion fails, ``"pass"`` if all pass, else ``"not proven"``."""
        results = {conclusion.result for conclusion in self.conclusions}
        return FAIL if FAIL in results else PASS if results == {PASS} else NOT_PROVEN


def acceptance_study(
    judged: Sequence[Judged],
    criteria: Criteria,
    threshold: float | None = None,
    zone: tuple[float, float] | None = None,
) -> Study:
    """Compute an acceptance study.

    Args:
        judged: Every picture with its verdict; those of one part have its name.
        criteria: The limits.
        threshold: Raw threshold behind the verdicts.
        zone: Raw scores above the first and up to the second of which the verdict is LOOK, or would be.

    Raises:
        ValueError: If there are no good or no defective parts, or trials and stations are no design of a study.
    """
    parts: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for each in judged:
        parts[each.kind, each.part].append(each)
    wrong: dict[str, list[bool]] = defaultdict(list)
    for (kind, _), pictures in parts.items():
        wrong[kind].append(any((each.verdict == _OK) != (kind == GOOD) for each in pictures))
    if GOOD not in wrong or len(wrong) < 2:
        msg = f"A study takes good and defective parts, got {', '.join(sorted(wrong)) or 'none'}."
        raise ValueError(msg)
    classes = {kind: _rate(found, criteria) for kind, found in sorted(wrong.items())}
    escapes = _rate([each for kind, found in wrong.items() if kind != GOOD for each in found], criteria)
    conclusions = [
        conclude("Escapes", escapes, criteria.max_escapes, "defective"),
        conclude("False alarms", classes[GOOD], criteria.max_false_alarms, "good"),
    ]
    repeated = any(len(pictures) > 1 for pictures in parts.values())
    return Study(
        classes,
        escapes,
        classes[GOOD],
        sum(each.verdict == _ERROR for each in judged),
        conclusions,
        None if zone is None or threshold is None else _looks(parts, threshold, zone, criteria),
        agreement_study(_observations(judged), threshold) if repeated else None,
    )


def conclude(name: str, rate: Rate, limit: float, kind: str) -> Conclusion:
    """Compare a rate with its limit.

    Args:
        name: Name of the rate.
        rate: The rate.
        limit: The largest rate that is accepted, in (0, 1).
        kind: Kind of the parts.

    Returns:
        Passed is what the upper bound proves, failed what the lower bound does.
    """
    criterion = f"{name}: at most {percent(limit)} with {percent(rate.confidence)} confidence"
    if rate.at_most <= limit:
        return Conclusion(criterion, PASS, f"{rate}.")
    if rate.at_least > limit:
        return Conclusion(criterion, FAIL, f"{rate}; it is at least {percent(rate.at_least)}.")
    more = rate.further_parts(limit)
    return Conclusion(
        criterion, NOT_PROVEN, f"{rate}: {more} more {kind} parts without a wrong verdict would prove it."
    )


def _looks(
    parts: dict[tuple[str, str], list[Judged]], threshold: float, zone: tuple[float, float], criteria: Criteria
) -> Looks:
    """Count the parts of which a picture is in the zone, and whose verdicts by the threshold alone would be wrong."""
    found: dict[bool, list[bool]] = {True: [], False: []}
    saved = {True: 0, False: 0}
    for (kind, _), pictures in parts.items():
        scores = [each.score for each in pictures if each.score is not None]
        inside = [score for score in scores if zone[0] < score <= zone[1]]
        good = kind == GOOD
        found[good].append(bool(inside))
        rest = [score for score in scores if score not in inside]
        wrong = [any((score <= threshold) != good for score in group) for group in (inside, rest)]
        saved[good] += wrong[0] and not wrong[1]
    return Looks(_rate(found[True], criteria), _rate(found[False], criteria), saved[False], saved[True])


def _observations(judged: Iterable[Judged]) -> list[Observation]:
    return [
        Observation(
            f"{each.kind}/{each.part}", each.station, each.trial, each.kind != GOOD, each.verdict != _OK, each.score
        )
        for each in judged
    ]


def _rate(wrong: Sequence[bool], criteria: Criteria) -> Rate:
    return Rate(sum(wrong), len(wrong), criteria.confidence)
