# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Prove a model on known good and known bad parts: an acceptance study as one HTML page, and JSON.

Usage:
    anople qualify DIR --model bottle.ckpt --max-escapes 0.02 --max-false-alarms 0.05

DIR has a folder of good parts and one for every kind of defect; for an agreement study it has such folders in a folder
for each trial, the files of one part under one name, or --trials names a CSV file with the columns part, trial, station
and file.
"""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.utils.files import EXPORTED, digest_of

from .judge import judge, load
from .terminal import FINE, MEGAPIXELS, NOT_MET, UsageError, allow_pixels

if TYPE_CHECKING:
    from anople_anomalib.metrics.study import Study

_COLUMNS = ("part", "trial", "station", "file")


class Picture(NamedTuple):
    """A picture of a part.

    Attributes:
        path: The file.
        kind: ``"good"``, or the name of the defect.
        part: Name of the part.
        station: Name of the station; ``""`` if there is one alone.
        trial: Name of the trial; ``""`` if there is one alone.
    """

    path: Path
    kind: str
    part: str
    station: str = ""
    trial: str = ""


class _Subject(NamedTuple):
    """The judge: its rows, threshold and circumstances."""

    rows: list[dict[str, Any]]
    threshold: float
    zone: tuple[float, float] | None
    look: bool
    facts: dict[str, Any]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("folder", type=Path, help="folder of the known parts, none of them learned")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint, or exported model .onnx or .xml")
    parser.add_argument("--output", type=Path, default=Path("study"), help="folder of the study; it must not exist yet")
    parser.add_argument("--max-escapes", type=float, default=0.02, help="largest share of bad parts that are called OK")
    parser.add_argument("--max-false-alarms", type=float, default=0.05, help="largest share of good parts that are not")
    parser.add_argument("--confidence", type=float, default=0.95, help="confidence with which both are to hold")
    parser.add_argument("--trials", type=Path | None, default=None, help="CSV file: part, trial, station, file")
    parser.add_argument("--look", type=bool | None, default=None, help="whether doubtful parts get the verdict LOOK")
    parser.add_argument("--white", type=float | None, default=None, help="white of images of 16 bits, 4095 for 12")
    parser.add_argument("--megapixels", type=float, default=MEGAPIXELS, help="largest image that is opened")
    parser.add_argument("--accelerator", type=str, default="auto", help="as in Lightning's Trainer")


def run(options: Namespace) -> int:
    """Write a study."""
    from anople_anomalib.metrics.agreement import Judged
    from anople_anomalib.metrics.study import PASS, Criteria, acceptance_study
    from anople_anomalib.report.study import StudyPage, write_study

    for name in ("max_escapes", "max_false_alarms", "confidence"):
        if not 0 < options[name] < 1:
            msg = f"--{name.replace('_', '-')} must be in (0, 1), got {options[name]}."
            raise UsageError(msg)
    if options.output.exists():
        msg = f"'{options.output}' exists already: give another --output, nothing is overwritten."
        raise FileExistsError(msg)
    allow_pixels(options.megapixels)
    pictures = read_trials(options.trials, options.folder) if options.trials else find_pictures(options.folder)
    hashes = hash_all(pictures)
    subject = _judge(options, pictures, hashes)
    rows = {row["path"]: row for row in subject.rows}
    judged = [
        Judged(str(path), kind, part, station, trial, row["verdict"], row["score"], row["error"])
        for (path, kind, part, station, trial) in pictures
        for row in [rows[str(path)]]
    ]
    criteria = Criteria(options.max_escapes, options.max_false_alarms, options.confidence)
    study = acceptance_study(judged, criteria, subject.threshold, subject.zone)
    facts = subject.facts | _facts(options, pictures, hashes) | {"threshold": subject.threshold}
    page = StudyPage(
        study,
        judged,
        facts,
        not_covered(study, pictures),
        subject.threshold,
        subject.zone,
        subject.look,
    )
    written = write_study(page, options.output, options.folder.resolve().name)
    for each in study.conclusions:
        print(f"{each.criterion}: {each.result}. {each.text}")
    print(f"{study.result}: {written}")
    return FINE if study.result == PASS else NOT_MET


def find_pictures(folder: Path) -> list[Picture]:
    """Find the pictures of a study: folders of kinds, or of trials with folders of kinds.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: If there is no such folder, or none of good parts.
    """
    from anople_anomalib.data.listing import GOOD_NAMES, is_good, subfolders

    if not folder.is_dir():
        msg = f"There is no folder '{folder}': check the path."
        raise FileNotFoundError(msg)
    kinds = subfolders(folder)
    if any(is_good(kind.name) for kind in kinds):
        return [picture for kind in kinds for picture in _pictures(kind, "")]
    trials = [trial for trial in kinds if any(is_good(kind.name) for kind in subfolders(trial))]
    if not trials or trials != kinds:
        msg = (
            f"'{folder}' must have a folder of good parts ({', '.join(GOOD_NAMES)}) and one for every kind of defect, "
            "or such folders in a folder for each trial."
        )
        raise FileNotFoundError(msg)
    return [picture for trial in trials for kind in subfolders(trial) for picture in _pictures(kind, trial.name)]


def read_trials(file: Path, folder: Path) -> list[Picture]:
    """Read the table of an agreement study.

    Args:
        file: CSV file with the columns part, trial, station and file.
        folder: Folder of the files; a file's folder is its kind.

    Raises:
        FileNotFoundError: If the table or one of its files is missing.
        ValueError: If it lacks a column.
    """
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if missing := set(_COLUMNS) - set(reader.fieldnames or ()):
            msg = f"'{file}' must have the columns {', '.join(_COLUMNS)}; missing: {', '.join(sorted(missing))}."
            raise ValueError(msg)
        rows = list(reader)
    pictures = []
    for row in rows:
        path = folder / row["file"]
        if not path.is_file():
            msg = f"'{file}' names '{row['file']}', which is not in '{folder}'."
            raise FileNotFoundError(msg)
        pictures.append(Picture(path, _kind(path.parent.name), row["part"], row["station"], row["trial"]))
    return pictures


def hash_all(pictures: Sequence[Picture]) -> dict[str, Path]:
    """Return the files by the SHA-256 of their contents.

    Args:
        pictures: The pictures.

    Raises:
        ValueError: If two have the same content: a picture taken anew is a trial, a copy is none.
    """
    found: dict[str, Path] = {}
    for picture in pictures:
        other = found.setdefault(digest_of(picture.path), picture.path)
        if other is not picture.path:
            msg = f"'{picture.path}' and '{other}' are the same picture: a copy is no other part and no repeat."
            raise ValueError(msg)
    return found


def not_covered(study: "Study", pictures: Sequence[Picture]) -> list[str]:
    """List what a study says nothing of.

    Args:
        study: The study.
        pictures: Its pictures.
    """
    stations, trials = {each.station for each in pictures}, {each.trial for each in pictures}
    found = [
        "Kinds of defects without a folder here, and parts of other lots, suppliers or variants.",
        "Other light, lenses, cameras, exposures and positions than those of these pictures.",
        "The time after these pictures were taken: check known parts every shift.",
    ]
    found += [f"{name}: {rate}." for name, rate in study.classes.items() if rate.at_most > 0.5]
    if study.agreement is None:
        found.append("Repeatability: every part was pictured once.")
    if len(stations) == 1:
        found.append("Differences between stations: there is one alone.")
    if study.agreement is not None and len(trials) == 1:
        found.append("Differences between trials at one station.")
    return found


def _judge(options: Namespace, pictures: Sequence[Picture], hashes: dict[str, Path]) -> _Subject:
    """Judge the pictures by a checkpoint or an exported model."""
    paths = [picture.path for picture in pictures]
    if options.model.suffix in EXPORTED:
        from anople_anomalib.deployment import runtime

        exported = runtime.ExportedModel(options.model)
        _require_new(hashes, exported.metadata.known_images)
        limit, zone = exported.metadata.limits["image"], exported.metadata.look
        facts = {"model id": exported.metadata.model_id, "versions": exported.metadata.versions}
        look = None if zone is None else (zone[0], zone[1])
        rows = list(runtime.judge(paths, exported))
        return _Subject(rows, _require_threshold(limit), look, look is not None, facts)
    from anople_anomalib.data.watching import ImageList
    from anople_anomalib.deployment.table import rows_of

    model = load(Namespace(**vars(options), pictures=False))
    processor = model.require_thresholds()
    _require_new(hashes, processor.known_images)
    threshold = _require_threshold(float(processor.limit("image")))
    judge(model, ImageList(paths, options.white), options)
    return _Subject(
        rows_of(options.output / "predictions.jsonl"),
        threshold,
        processor.zone(),
        processor.look,
        {"calibration": processor.calibration(), "versions": _versions()},
    )


def _require_new(hashes: dict[str, Path], known: Sequence[str]) -> None:
    """Refuse pictures that the model rests on."""
    if found := [path for content, path in hashes.items() if content in known]:
        msg = (
            f"{len(found)} of {len(hashes)} pictures are shots or calibration images of this model, such as "
            f"'{found[0]}': give parts that it has never seen."
        )
        raise ValueError(msg)


def _require_threshold(value: float | None) -> float:
    if value is None or value != value:
        msg = "The model has no threshold, and so no verdicts: set one by anople threshold."
        raise ValueError(msg)
    return value


def _facts(options: Namespace, pictures: Sequence[Picture], hashes: dict[str, Path]) -> dict[str, Any]:
    """Return what identifies model, data and study."""
    counts: dict[str, int] = defaultdict(int)
    for picture in pictures:
        counts[picture.kind] += 1
    return {
        "model": str(options.model),
        "model SHA-256": digest_of(options.model),
        "pictures": dict(counts),
        "pictures SHA-256": hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest(),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from anople_anomalib.utils.version import __version__

    return {"anople_anomalib": __version__} | {name: version(name) for name in ("anomalib", "torch", "scipy")}


def _pictures(folder: Path, trial: str) -> Iterable[Picture]:
    from anople_anomalib.data.listing import list_images

    for path in list_images([folder]).images:
        yield Picture(path, _kind(folder.name), str(path.relative_to(folder).with_suffix("")), trial=trial)


def _kind(name: str) -> str:
    from anople_anomalib.data.listing import is_good
    from anople_anomalib.metrics.score_counts import GOOD

    return GOOD if is_good(name) else name
