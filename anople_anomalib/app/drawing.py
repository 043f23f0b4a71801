# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Answers as HTML: images and heat maps as layers, scores on a scale; no file is served for them."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from anople_anomalib.deployment.heat_maps import heat_colors, resized_heat
from anople_anomalib.utils.palette import BLUE, ORANGE, VERMILLION
from anople_anomalib.visualization.explanation import draw_nearest_normal
from anople_anomalib.visualization.samples import load_images

from .judging import Answer, Thresholds
from .messages import AppError
from .session import Session

_SIDE = 360  # pixels, longest side of an image on the page
_HEAT_SIDE = 120


def gallery(session: Session) -> str:
    """Draw all answers, worst first.

    Args:
        session: Whose answers.

    Returns:
        HTML.
    """
    if not session.answers:
        return '<p class="anople-note">Nothing was asked yet.</p>'
    bad = sum(map(session.is_bad, session.answers))
    top = 1.05 * max([session.thresholds.image, *(answer.score for answer in session.answers), *_good(session)])
    cards = "".join(_card(session, number, answer, top) for number, answer in enumerate(session.sorted_answers, 1))
    summary = f"{len(session.answers)} images: {bad} not OK, {len(session.answers) - bad} OK."
    return f'<p role="status" id="anople-summary">{summary}</p><ol class="anople-cards">{cards}</ol>'


def thumbnails(session: Session) -> str:
    """Draw the good images to teach from.

    Returns:
        HTML.
    """
    if not session.taught:
        return '<p class="anople-note">No good image yet.</p>'
    images = "".join(
        f'<img src="{_uri_of_file(photo.path, 120)}" alt="good image {escape(photo.name)}">' for photo in session.taught
    )
    number = f"{len(session.taught)} good image{'s' if len(session.taught) > 1 else ''}"
    return f'<p role="status">{number}.</p><div class="anople-thumbnails">{images}</div>'


def bar(text: str, done: int, steps: int) -> str:
    """Draw the progress of a training run.

    Args:
        text: What is happening.
        done: Steps that are done.
        steps: Steps of the whole run; 0 if that is not known yet.

    Returns:
        HTML.
    """
    return (
        f'<p role="status" id="anople-progress">{escape(text)}</p>'
        f'<progress aria-label="training" max="{max(steps, 1)}" value="{done}"></progress>'
    )


def reason(session: Session, answer: Answer) -> str:
    """Draw the nearest normal patch of the most anomalous one.

    Returns:
        HTML.

    Raises:
        AppError: If the good images are not known.
    """
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
    return f'<img class="anople-why" src="{_uri(stream.getvalue(), "png")}" alt="{escape(alt)}">'


def scale(score: float, thresholds: Thresholds, good: Sequence[float], top: float) -> str:
    """Draw a score on a line with the threshold and the scores of good images.

    Args:
        score: Raw score of the image.
        thresholds: The present thresholds.
        good: Raw scores of good images.
        top: Raw score at the right end.

    Returns:
        SVG.
    """
    color = VERMILLION if score > thresholds.image else BLUE
    place = {value: 4 + 192 * value / top for value in (score, thresholds.image, *good)}
    dots = "".join(f'<circle cx="{place[each]:.1f}" cy="12" r="2.5" class="anople-good"/>' for each in good)
    label = f"score {score:.4g}, threshold {thresholds.image:.4g}, good images {', '.join(f'{g:.4g}' for g in good)}"
    return (
        f'<svg viewBox="0 0 200 24" class="anople-scale" role="img" aria-label="{label}">'
        f'<line x1="4" x2="196" y1="12" y2="12" class="anople-axis"/>{dots}'
        f'<line x1="{place[thresholds.image]:.1f}" x2="{place[thresholds.image]:.1f}" y1="2" y2="22" '
        f'class="anople-limit"/><path d="M{place[score]:.1f} 12 l-5 -9 h10 z" fill="{color}"/></svg>'
    )


def _good(session: Session) -> list[float]:
    return [score for score, _ in session.good]


def _card(session: Session, number: int, answer: Answer, top: float) -> str:
    """Draw one answer."""
    bad, name = session.is_bad(answer), escape(answer.photo.name)
    verdict = "NOT OK" if bad else "OK"
    numbers = f"score {answer.score:.4g}, threshold {session.thresholds.image:.4g}"
    note = " (said to be good)" if answer.photo in session.corrected else ""
    return (
        f'<li class="anople-card {"anople-bad" if bad else "anople-ok"}"><div class="anople-layers">'
        f'<img src="{_uri_of_file(answer.photo.path, _SIDE)}" alt="{name}: {verdict}, {numbers}">'
        f'<img src="{_heat(answer, session.thresholds.pixel)}" alt="" class="anople-heat">'
        f"{_outline(answer, session.thresholds.pixel)}</div>"
        f"<p><strong>{verdict}</strong> {number}. {name}{note}</p>"
        f"{scale(answer.score, session.thresholds, _good(session), top)}<p>{numbers}</p></li>"
    )


def _heat(answer: Answer, threshold: float) -> str:
    """Draw a heat map on the scale from 0 to 1 with the threshold at 0.5, as an image that covers the photograph."""
    scaled = resized_heat(answer.heat, (_HEAT_SIDE, _HEAT_SIDE))
    return _encode(Image.fromarray(heat_colors(scaled / (scaled + threshold)).astype(np.uint8)))


def _outline(answer: Answer, threshold: float) -> str:
    """Outline what is above the threshold, as SVG that covers the photograph."""
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


def _uri_of_file(path: object, side: int) -> str:
    with Image.open(str(path)) as image:
        image.thumbnail((side, side))
        return _encode(image)


def _encode(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, format="webp", quality=80)
    return _uri(stream.getvalue(), "webp")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
