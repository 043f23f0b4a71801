# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""An acceptance study as one HTML page that prints, and as JSON."""

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from anople_anomalib.metrics.agreement import Judged
from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.metrics.study import Study
from anople_anomalib.utils.files import digest_of
from anople_anomalib.utils.palette import PALETTE
from anople_anomalib.utils.version import __version__

from .page import image_address, render, write_text
from .plots import as_svg

_PICTURES, _SIDE = 12, 240  # on the page


class Subject(NamedTuple):
    """The subject of a study: a model that judges."""

    facts: dict[str, Any]  # hashes of model and data, versions and so on, by their names
    threshold: float  # raw threshold
    zone: tuple[float, float] | None  # scores of the verdict LOOK; ``None`` if unknown
    look: bool  # whether that verdict was given
    white: float | None = None  # value of 16 bits that was white in its pictures; ``None`` for 65535


def write_study(
    study: Study, judged: Sequence[Judged], subject: Subject, not_covered: Sequence[str], folder: Path, title: str
) -> Path:
    """Write ``study.html`` and ``study.json`` into a folder, and return the path of the page.

    The study is shown with its pictures and verdicts, the model, and sentences on its limits.
    """
    common = {"study": study, "not_covered": not_covered, "subject": subject.facts}
    common |= {"threshold": subject.threshold, "zone": subject.zone, "look": subject.look}
    content = plain({"result": study.result, **common, "pictures": judged})
    write_text(folder / "study.json", json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    good, bad = ([each.score for each in judged if each.score is not None and each.truth == bad] for bad in (0, 1))
    html = render(
        "study.html",
        title=title,
        histogram=as_svg(draw_scores(good, bad, subject.threshold, subject.zone), "scores"),
        pictures=[
            (
                _address(each.path, subject.white),
                f"{each.kind}/{Path(each.path).name}: {each.verdict}, {each.score:.4g}",
            )
            for each in _nearest(judged, subject.threshold)
        ],
        **common,
    )
    return write_text(folder / "study.html", html)


def model_facts(calibration: str, model_id: str) -> dict[str, Any]:
    """Return facts on a checkpoint's model, with the versions here."""
    versions = {"anople_anomalib": __version__} | {name: version(name) for name in ("anomalib", "torch", "scipy")}
    return {"calibration": calibration, "versions": versions, "model id": model_id}


def judged_facts(judged: Sequence[Judged], threshold: float) -> dict[str, Any]:
    """Return facts on a study's pictures, by the SHA-256 of their files, with the threshold and the time."""
    hashes = [digest_of(each.path) for each in judged]
    return {
        "pictures": dict(Counter(each.kind for each in judged)),
        "pictures SHA-256": hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest(),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "threshold": threshold,
    }


def not_covered(study: Study, judged: Sequence[Judged]) -> list[str]:
    """List the limits of a study."""
    found = [
        "Kinds of defects without a folder here, and parts of other lots, suppliers or variants.",
        "Other light, lenses, cameras, exposures and positions than those of these pictures.",
        "The time after these pictures were taken: check known parts every shift.",
    ]
    found += [f"{name}: {rate}." for name, rate in study.classes.items() if rate.at_most > 0.5]
    if study.agreement is None:
        found.append("Repeatability: every part was pictured once.")
    if len({each.station for each in judged}) == 1:
        found.append("Differences between stations: there is one alone.")
    if study.agreement is not None and len({each.trial for each in judged}) == 1:
        found.append("Differences between trials at one station.")
    return found


def plain(value: Any) -> Any:
    """Return plain data for JSON: rates and kappas with all their numbers, NaN and infinity as null."""
    if isinstance(value, Rate):
        bounds = {"at_least": value.at_least, "at_most": value.at_most, "confidence": value.confidence}
        return {"k": value.k, "n": value.n, "rate": plain(value.value), **bounds}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {" / ".join(name) if isinstance(name, tuple) else str(name): plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def draw_scores(
    good: Sequence[float], bad: Sequence[float], threshold: float, zone: tuple[float, float] | None = None
) -> Figure:
    """Draw the raw scores of good and of defective parts with the threshold and the zone of LOOK."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist([good, bad], bins=40, stacked=True, color=PALETTE[:2], label=["good", "defective"])
    if zone is not None:
        axes.axvspan(*zone, color="0.85", zorder=0, label="LOOK")
    axes.axvline(threshold, color="black", linestyle="--", label="threshold")
    everything = [*good, *bad, threshold]
    axes.set_xlim(min(0, *everything), 1.05 * max(everything))
    axes.set_xlabel("raw score")
    axes.set_ylabel("pictures")
    axes.legend(frameon=False)
    return figure


def _nearest(judged: Sequence[Judged], threshold: float) -> list[Judged]:
    """Return the pictures whose scores are nearest to the threshold, as ratios, the lowest score first."""
    known = [each for each in judged if each.score is not None]
    known.sort(key=lambda each: abs(math.log(max(each.score or 0.0, 1e-12) / threshold)))
    return sorted(known[:_PICTURES], key=lambda each: each.score or 0.0)


def _address(path: str, white: float | None) -> str:
    """Return a small copy of an image file as a data address."""
    from anople_anomalib.data.image_reading import open_image  # a report of rows needs no torch

    small = open_image(path, white).convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return image_address(stream.getvalue())
