# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Answers as HTML: images and heat maps as layers, scores on a scale; no file is served for them."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from anople_anomalib.deployment.painting import heat_colors, resized_heat
from anople_anomalib.deployment.table import verdict_of
from anople_anomalib.report.page import image_address
from anople_anomalib.utils.palette import BLUE, ORANGE, VERMILLION
from anople_anomalib.visualization.explanation import draw_nearest_normal
from anople_anomalib.visualization.samples import load_images

from .session import Session
from .training import Answer, Thresholds
from .uploads import AppError

_SIDE = 360  # pixels, longest side of an image on the page
_HEAT_SIDE = 120


def gallery(session: Session) -> str:
    """Draw all answers, worst first."""
    if not session.answers:
        return '<p class="anople-note">Nothing was asked yet.</p>'
    bad = sum(map(session.is_bad, session.answers))
    cards = "".join(_card(session, number, answer) for number, answer in enumerate(session.answers, 1))
    summary = f"{len(session.answers)} images: {bad} not OK, {len(session.answers) - bad} OK."
    return f'<p role="status" id="anople-summary">{summary}</p><ol class="anople-cards">{cards}</ol>'


def thumbnails(session: Session) -> str:
    """Draw the good images to teach from."""
    if not session.taught:
        return '<p class="anople-note">No good image yet.</p>'
    images = "".join(
        f'<img src="{_uri_of_file(photo.path, 120)}" alt="good image {escape(photo.name)}">' for photo in session.taught
    )
    number = f"{len(session.taught)} good image{'s' if len(session.taught) > 1 else ''}"
    return f'<p role="status">{number}.</p><div class="anople-thumbnails">{images}</div>'


def reason(session: Session, answer: Answer) -> str:
    """Draw the nearest normal patch of the most anomalous one; an :class:`AppError` without the good images."""
    shots = session.shots()
    if not shots:
        msg = "A checkpoint holds no images: the nearest normal patch can be shown only for a model taught here."
        raise AppError(msg)
    batch = load_images(session.model, [answer.photo.path])
    figure = draw_nearest_normal(session.model, batch, shots)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    alt = (
        f"{answer.photo.name}: the patch furthest from everything normal, and beside it the most similar normal patch "
        "with the good image that it comes from"
    )
    return f'<img class="anople-why" src="{image_address(stream.getvalue(), "png")}" alt="{escape(alt)}">'


def scale(score: float, thresholds: Thresholds, good: Sequence[float], top: float) -> str:
    """Draw a raw score on a line from 0 to ``top`` with the threshold and the scores of good images."""
    color = VERMILLION if score > thresholds.image else BLUE
    mark, limit, *places = (4 + 192 * value / top for value in (score, thresholds.image, *good))
    dots = "".join(f'<circle cx="{place:.1f}" cy="12" r="2.5" class="anople-good"/>' for place in places)
    label = f"score {score:.4g}, threshold {thresholds.image:.4g}, good images {', '.join(f'{g:.4g}' for g in good)}"
    return (
        f'<svg viewBox="0 0 200 24" class="anople-scale" role="img" aria-label="{label}">'
        f'<line x1="4" x2="196" y1="12" y2="12" class="anople-axis"/>{dots}'
        f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="2" y2="22" '
        f'class="anople-limit"/><path d="M{mark:.1f} 12 l-5 -9 h10 z" fill="{color}"/></svg>'
    )


def _card(session: Session, number: int, answer: Answer) -> str:
    """Draw one answer."""
    bad, name, limits = session.is_bad(answer), escape(answer.photo.name), session.thresholds
    verdict = verdict_of(bad, answer.score)
    numbers = f"score {answer.score:.4g}, threshold {limits.image:.4g}"
    note = " (said to be good)" if answer.photo in session.corrected else ""
    good = [each.score for each in session.good]
    top = 1.05 * max([limits.image, session.answers[0].score, *good])
    return (
        f'<li class="anople-card {"anople-bad" if bad else "anople-ok"}"><div class="anople-layers">'
        f'<img src="{_uri_of_file(answer.photo.path, _SIDE)}" alt="{name}: {verdict}, {numbers}">'
        f'<img src="{_heat(answer, limits.pixel)}" alt="" class="anople-heat">'
        f"{_outline(answer, limits.pixel)}</div>"
        f"<p><strong>{verdict}</strong> {number}. {name}{note}</p>"
        f"{scale(answer.score, limits, good, top)}<p>{numbers}</p></li>"
    )


def _heat(answer: Answer, threshold: float) -> str:
    """Draw a heat map on the scale from 0 to 1 with the threshold at 0.5, as an image that covers the photograph."""
    scaled = resized_heat(answer.heat, (_HEAT_SIDE, _HEAT_SIDE))
    return _encode(Image.fromarray(heat_colors(scaled / (scaled + threshold)).astype(np.uint8)))


def _outline(answer: Answer, threshold: float) -> str:
    """Outline the pixels above the threshold, as SVG that covers the photograph."""
    height, width = answer.heat.shape
    paths = [
        "M" + "L".join(f"{x - 0.5:.1f} {y - 0.5:.1f}" for y, x in contour)
        for contour in find_contours(np.pad(answer.heat, 1), threshold)
    ]
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" class="anople-outline" aria-hidden="true">'
        f'<path d="{"".join(paths)}" fill="none" stroke="{ORANGE}" stroke-width="2" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _uri_of_file(path: Path, side: int) -> str:
    with Image.open(path) as image:
        image.thumbnail((side, side))
        return _encode(image)


def _encode(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, format="webp", quality=80)
    return image_address(stream.getvalue(), "webp")
