# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""An acceptance study as one HTML page that prints, and as JSON."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from anople_anomalib.metrics.agreement import Judged, Kappa
from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.metrics.score_counts import GOOD
from anople_anomalib.metrics.study import Study
from anople_anomalib.utils.files import written_whole
from anople_anomalib.utils.palette import PALETTE

from .plots import as_svg

_PICTURES, _SIDE = 12, 240  # on the page
_AGREEMENT = (
    ("Trials agree, per part", "within"),
    ("All trials are right, per part (effectiveness)", "effectiveness"),
    ("Right verdicts, per trial", "right_verdicts"),
    ("Misses, per trial", "miss_rate"),
    ("False alarms, per trial", "false_alarm_rate"),
    ("Defective parts missed once or more, per part", "missed_parts"),
    ("Good parts refused once or more, per part", "scrapped_parts"),
    ("Cohen's kappa with the reference, per trial", "against_reference"),
    ("Fleiss' kappa of the trials", "between_trials"),
)


class StudyPage(NamedTuple):
    """An acceptance study and its circumstances.

    Attributes:
        study: The study.
        judged: Its pictures and verdicts.
        subject: Hashes of model and data, threshold, versions and so on, by their names.
        not_covered: Sentences on what the study says nothing of.
        threshold: Raw threshold; ``None`` if there is none.
        zone: Scores of the verdict LOOK; ``None`` if unknown.
        look: Whether that verdict was given.
    """

    study: Study
    judged: Sequence[Judged]
    subject: Mapping[str, Any]
    not_covered: Sequence[str]
    threshold: float | None
    zone: tuple[float, float] | None
    look: bool


def write_study(page: StudyPage, folder: Path, title: str) -> Path:
    """Write ``study.html`` and ``study.json``.

    Args:
        page: The study.
        folder: Folder of both, made if missing.
        title: Title of the page.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "result": page.study.result,
        "subject": page.subject,
        "threshold": page.threshold,
        "look": page.look,
        "zone": page.zone,
        "not_covered": page.not_covered,
        "study": page.study,
        "pictures": [each._asdict() for each in page.judged],
    }
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for name, written in (("study.json", text), ("study.html", _html(page, title))):
        with written_whole(folder / name) as temporary:
            temporary.write_text(written, encoding="utf-8")
    return folder / "study.html"


def plain(value: Any) -> Any:  # anything in a study
    """Return plain data for JSON: rates and kappas with all their numbers, NaN and infinity as null."""
    if isinstance(value, Rate):
        return {"k": value.k, "n": value.n, "rate": plain(value.value), "at_least": value.at_least} | {
            "at_most": value.at_most,
            "confidence": value.confidence,
        }
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Kappa) or hasattr(value, "_asdict"):
        return plain(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(each) for name, each in vars(value).items()}
    if isinstance(value, Mapping):
        return {" / ".join(name) if isinstance(name, tuple) else str(name): plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def draw_scores(judged: Sequence[Judged], threshold: float | None, zone: tuple[float, float] | None) -> Figure:
    """Draw the scores of good and of defective parts with the threshold.

    Args:
        judged: Pictures and verdicts.
        threshold: Raw threshold.
        zone: Scores of the verdict LOOK.
    """
    scored = [(each.kind == GOOD, each.score) for each in judged if each.score is not None]
    groups = [[score for good, score in scored if good == wanted] for wanted in (True, False)]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(groups, bins=40, stacked=True, color=PALETTE[:2], label=["good", "defective"])
    if zone is not None:
        axes.axvspan(*zone, color="0.85", zorder=0, label="LOOK")
        axes.set_xlim(min(0, *(score for _, score in scored)), 1.05 * max(score for _, score in scored))
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", label="threshold")
    axes.set_xlabel("raw score")
    axes.set_ylabel("pictures")
    axes.legend(frameon=False)
    return figure


def _html(page: StudyPage, title: str) -> str:
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    figure = draw_scores(page.judged, page.threshold, page.zone)
    return environment.get_template("study.html").render(
        **page._asdict(),
        title=title,
        histogram=Markup(as_svg(figure, "scores")),  # noqa: S704  # drawn here
        pictures=[{"address": _address(each.path), "caption": _caption(each)} for each in _nearest(page)],
        agreement_rows=_AGREEMENT,
    )


def _nearest(page: StudyPage) -> list[Judged]:
    """Return the pictures whose scores are nearest to the threshold, as ratios, the lowest score first."""
    if page.threshold is None:
        return []
    scored = [each for each in page.judged if each.score is not None]
    distances = [(abs(math.log(max(each.score or 0.0, 1e-12) / page.threshold)), each) for each in scored]
    nearest = [each for _, each in sorted(distances, key=lambda pair: pair[0])[:_PICTURES]]
    return sorted(nearest, key=lambda each: each.score or 0.0)


def _caption(each: Judged) -> str:
    return f"{each.kind}/{Path(each.path).name}: {each.verdict}, {each.score:.4g}"


def _address(path: str) -> str:
    """Return a small copy of an image file as a data address."""
    with Image.open(path) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
