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

from .agreement import AgreementStudy, Judged, agreement_study, require_repeats
from .bounds import CONFIDENCE, GOOD, Rate, percent

_ERROR = "ERROR"
PASS, FAIL, NOT_PROVEN = "pass", "fail", "not proven"


@dataclass(frozen=True)
class Criteria:
    """Limits that are stated before the study."""

    max_escapes: float = 0.02  # largest share of defective parts that are called OK, in (0, 1)
    max_false_alarms: float = 0.05  # largest share of good parts that are not, in (0, 1)
    confidence: float = CONFIDENCE  # confidence with which both are to hold, in (0, 1)


class Conclusion(NamedTuple):
    """A criterion and its result: ``"pass"``, ``"fail"`` or ``"not proven"``, and one sentence."""

    criterion: str
    result: str
    text: str


@dataclass(frozen=True)
class Looks:
    """Counts of the third verdict, LOOK, whether it was given or would be."""

    good: Rate  # good parts in the zone
    bad: Rate  # defective parts in the zone
    escapes_saved: int  # defective parts in the zone that the threshold alone calls OK
    false_alarms_saved: int  # good parts in the zone that the threshold alone calls not OK


@dataclass(frozen=True)
class Study:
    """Result of an acceptance study."""

    classes: dict[str, Rate]  # parts called wrongly by class: of good ones the false alarms, of each defect the escapes
    escapes: Rate  # defective parts that are called OK
    false_alarms: Rate  # good parts that are not
    errors: int  # pictures without a verdict
    conclusions: list[Conclusion]  # the result of each criterion
    looks: Looks | None  # counts of the third verdict; None where no zone is known
    agreement: AgreementStudy | None  # agreement of trials and stations; None without repeats

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
    require_design(judged)
    parts: dict[str, list[Judged]] = defaultdict(list)
    for each in judged:
        parts[each.name].append(each)
    wrong: dict[str, list[bool]] = defaultdict(list)
    for pictures in parts.values():
        wrong[pictures[0].kind].append(any(each.called != each.truth for each in pictures))
    classes = {kind: _rate(found, criteria) for kind, found in sorted(wrong.items())}
    escapes = _rate([each for kind, found in wrong.items() if kind != GOOD for each in found], criteria)
    conclusions = [
        conclude("Escapes", escapes, criteria.max_escapes, "defective"),
        conclude("False alarms", classes[GOOD], criteria.max_false_alarms, "good"),
    ]
    return Study(
        classes,
        escapes,
        classes[GOOD],
        sum(each.verdict == _ERROR for each in judged),
        conclusions,
        None if zone is None or threshold is None else _looks(parts.values(), threshold, zone, criteria),
        agreement_study(judged, threshold) if len(parts) < len(judged) else None,
    )


def require_design(pictures: Sequence[Judged]) -> None:
    """Refuse pictures, judged or not, that are no study, with a ValueError."""
    kinds = {each.kind for each in pictures}
    if GOOD not in kinds or len(kinds) < 2:
        msg = f"A study takes good and defective parts, got {', '.join(sorted(kinds)) or 'none'}."
        raise ValueError(msg)
    if len({each.name for each in pictures}) < len(pictures):
        require_repeats(pictures)


def conclude(name: str, rate: Rate, limit: float, kind: str) -> Conclusion:
    """Compare a rate of a kind of parts with its limit in (0, 1): the upper bound passes it, the lower one fails it."""
    criterion = f"{name}: at most {percent(limit)} with {percent(rate.confidence)} confidence"
    if rate.at_most <= limit:
        return Conclusion(criterion, PASS, f"{rate}.")
    if rate.at_least > limit:
        return Conclusion(criterion, FAIL, f"{rate}; it is at least {percent(rate.at_least)}.")
    more = rate.further_parts(limit)
    return Conclusion(
        criterion, NOT_PROVEN, f"{rate}: {more} more {kind} parts without a wrong verdict would prove it."
    )


def _looks(parts: Iterable[Sequence[Judged]], threshold: float, zone: tuple[float, float], criteria: Criteria) -> Looks:
    """Count the parts of which a picture is in the zone, and whose verdicts by the threshold alone would be wrong."""
    found: dict[bool, list[bool]] = {True: [], False: []}
    saved = {True: 0, False: 0}
    for pictures in parts:
        bad, scores = pictures[0].truth, [each.score for each in pictures if each.score is not None]
        inside = [zone[0] < score <= zone[1] for score in scores]
        wrong = [(score > threshold) != bad for score in scores]
        found[bad].append(any(inside))
        # the third verdict saves a part that no picture outside of the zone gets wrong
        saved[bad] += any(wrong) and all(each for each, is_wrong in zip(inside, wrong, strict=True) if is_wrong)
    return Looks(_rate(found[False], criteria), _rate(found[True], criteria), saved[True], saved[False])


def _rate(wrong: Sequence[bool], criteria: Criteria) -> Rate:
    return Rate(sum(wrong), len(wrong), criteria.confidence)
