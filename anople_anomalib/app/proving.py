# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The study of a session: known parts against the present threshold, on the page and as a page to keep."""

from html import escape
from pathlib import Path

from anople_anomalib.deployment.table import verdict_of
from anople_anomalib.metrics.agreement import Judged
from anople_anomalib.metrics.bounds import GOOD, Rate
from anople_anomalib.metrics.study import Study, acceptance_study
from anople_anomalib.report.plots import as_svg
from anople_anomalib.report.study import Subject, draw_scores, judged_facts, model_facts, not_covered, write_study

from .session import Session
from .taking import place_of
from .uploads import AppError

_NEEDED = "A study takes good parts and defective ones, none of them taught: add both."


def shown(session: Session) -> str:
    """Draw the scores with the threshold, and say the rates of wrong verdicts with their bounds."""
    if not session.is_trained:
        return ""
    known = {GOOD: session.good_scores} if not session.known else {}
    for kind, answer in session.known:
        known.setdefault(kind, []).append(answer.score)
    defects = [score for kind, scores in known.items() if kind != GOOD for score in scores]
    figure = draw_scores(known.get(GOOD, []), defects, session.thresholds.image)
    above = Rate(sum(score > session.thresholds.image for score in session.good_scores), len(session.good_scores))
    lines = [f"Good images behind the threshold that are above it: {above}. {above.wishes()}"]
    if has_both(session):
        study = _study(session)
        lines += [f"{each.criterion}: {each.result}. {each.text}" for each in study.conclusions]
        lines += [f"{kind}, called wrongly: {rate}" for kind, rate in study.classes.items()]
    else:
        lines.append(_NEEDED)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="anople-scores">{as_svg(figure, "scores")}</div><ul id="anople-rates">{items}</ul>'


def has_both(session: Session) -> bool:
    """Return whether there are known good parts and known defective ones."""
    kinds = {kind for kind, _ in session.known}
    return GOOD in kinds and len(kinds) > 1


def study_page(session: Session, reason: str = "") -> Path:
    """Write the study as ``anople qualify`` does, and return its page; an :class:`AppError` without known parts."""
    model = session.settled(reason)
    if not has_both(session):
        raise AppError(_NEEDED)
    processor, judged = model.require_thresholds(), _judged(session)
    facts = model_facts(processor.calibration(), model.model_id()) | judged_facts(judged, session.thresholds.image)
    study = _study(session)
    subject = Subject(facts, session.thresholds.image, processor.zone(), look=False)
    limits = not_covered(study, judged)
    return write_study(study, judged, subject, limits, place_of(session, "_study"), session.part)


def _study(session: Session) -> Study:
    return acceptance_study(_judged(session), session.criteria, session.thresholds.image)


def _judged(session: Session) -> list[Judged]:
    return [
        Judged(
            str(answer.photo.path),
            kind,
            part=answer.photo.name,
            station="",
            trial="",
            verdict=verdict_of(session.is_bad(answer), answer.score),
            score=answer.score,
        )
        for kind, answer in session.known
    ]
