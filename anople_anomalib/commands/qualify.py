# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Prove a model on known good and known bad parts.

Their folder has one of good parts and one for every kind of defect; for an agreement study it has such folders in a
folder for each trial, the files of one part under one name, or a table names part, trial, station and file.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.utils.files import digest_of, require_place

from .judge import is_exported, judge_series, load_judge
from .terminal import FINE, NOT_MET, UsageError, add_shared, allow_pixels

if TYPE_CHECKING:
    from anople_anomalib.metrics.agreement import Judged
    from anople_anomalib.report.study import Subject

_Rows = list[dict[str, Any]]

_COLUMNS = ("part", "trial", "station", "file")


def qualify_options(parser: ArgumentParser) -> None:
    """Add the options of ``qualify``."""
    parser.add_argument("folder", type=Path, help="folder of the known parts, none of them learned")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint, or exported model .onnx or .xml")
    parser.add_argument("--output", type=Path, default=Path("study"), help="folder of the study; it must not exist yet")
    parser.add_argument("--max-escapes", type=float, default=0.02, help="largest share of bad parts that are called OK")
    parser.add_argument("--max-false-alarms", type=float, default=0.05, help="largest share of good parts that are not")
    parser.add_argument("--confidence", type=float, default=0.95, help="confidence with which both are to hold")
    parser.add_argument("--trials", type=Path | None, default=None, help="CSV file: part, trial, station, file")
    add_shared(parser, "look", "white", "megapixels", "accelerator")


def qualify(options: Namespace) -> int:
    """Prove a model on known good and known bad parts: an acceptance study as one HTML page, and JSON."""
    for name in ("max_escapes", "max_false_alarms", "confidence"):
        if not 0 < options[name] < 1:
            msg = f"--{name.replace('_', '-')} must be in (0, 1), got {options[name]}."
            raise UsageError(msg)
    if options.output.exists():
        msg = f"'{options.output}' exists already: give another --output, nothing is overwritten."
        raise FileExistsError(msg)
    require_place(options.output)
    from anople_anomalib.deployment.journal import check, journal_of
    from anople_anomalib.metrics.study import PASS, Criteria, acceptance_study, require_design
    from anople_anomalib.report.study import judged_facts, not_covered, write_study

    allow_pixels(options.megapixels)
    exported, folder = is_exported(options), options.folder.absolute()  # as the rows name their files
    pictures = read_trials(options.trials, folder) if options.trials else find_pictures(folder)
    require_design(pictures)  # before anything is judged or written
    hashes = hash_all(pictures, options.white)
    rows, subject = (_judge_exported if exported else _judge)(options, hashes)
    verdicts = {row["path"]: {name: row[name] for name in ("verdict", "score", "error")} for row in rows}
    judged = [picture._replace(**verdicts[picture.path]) for picture in pictures]
    criteria = Criteria(options.max_escapes, options.max_false_alarms, options.confidence)
    study = acceptance_study(judged, criteria, subject.threshold, subject.zone)
    subject.facts.update(
        {
            "model": str(options.model),
            "model SHA-256": digest_of(options.model),
            **judged_facts(judged, subject.threshold),
        }
    )
    if (journal := journal_of(options.model)).is_file():
        subject.facts["journal"] = str(check(journal))
    limits = not_covered(study, pictures)
    written = write_study(study, judged, subject, limits, options.output, folder.resolve().name)
    for each in study.conclusions:
        print(f"{each.criterion}: {each.result}. {each.text}")
    print(f"{study.result}: {written}")
    return FINE if study.result == PASS else NOT_MET


def find_pictures(folder: Path) -> list["Judged"]:
    """Find the pictures of a study: folders of kinds, or of trials with folders of kinds.

    Raises:
        FileNotFoundError: If there is no such folder, or none of good parts.
    """
    from anople_anomalib.data.listing import GOOD_NAMES, is_good, said_images, subfolders

    if not folder.is_dir():
        msg = f"There is no folder '{folder}': check the path."
        raise FileNotFoundError(msg)
    kinds = subfolders(folder)
    if any(is_good(kind.name) for kind in kinds):
        trials = {"": kinds}
    else:
        trials = {trial.name: subfolders(trial) for trial in kinds}
    if not trials or not all(any(is_good(kind.name) for kind in own) for own in trials.values()):
        msg = (
            f"'{folder}' must have a folder of good parts ({', '.join(GOOD_NAMES)}) and one for every kind of defect, "
            "or such folders in a folder for each trial."
        )
        raise FileNotFoundError(msg)
    return [
        _unjudged(path, kind.name, str(_named(path.relative_to(kind), trial)), "", trial)
        for trial, own in trials.items()
        for kind in own
        for path in said_images(kind)
    ]


def _named(file: Path, trial: str) -> Path:
    """Return the name of a file's part, whose pictures in several trials may have other endings."""
    return file.with_suffix("") if trial else file


def read_trials(file: Path, folder: Path) -> list["Judged"]:
    """Read the CSV table of an agreement study, whose files are below a folder; the folder of each is its kind.

    Raises:
        FileNotFoundError: If the table or one of its files is missing.
        ValueError: If it is no CSV table in UTF-8, lacks a column or a value, or names no picture.
    """
    pictures = []
    for number, row in _rows_in(file):
        path = folder / row["file"]
        if not path.is_file():
            msg = f"'{file}', line {number}, names '{row['file']}', which is not in '{folder}'."
            raise FileNotFoundError(msg)
        pictures.append(_unjudged(path, path.parent.name, row["part"], row["station"], row["trial"]))
    if not pictures:
        msg = f"'{file}' names no picture: give a line for each, with {', '.join(_COLUMNS)}."
        raise ValueError(msg)
    return pictures


def _rows_in(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV table with their numbers, each with all columns."""
    if not file.is_file():
        msg = f"There is no table '{file}': check --trials."
        raise FileNotFoundError(msg)
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            if missing := set(_COLUMNS) - set(reader.fieldnames or ()):
                msg = f"'{file}' must have the columns {', '.join(_COLUMNS)}; missing: {', '.join(sorted(missing))}."
                raise ValueError(msg)
            for row in reader:
                if None in row or None in row.values():
                    msg = f"'{file}', line {reader.line_num}: there must be a value for every column, and no more."
                    raise ValueError(msg)
                yield reader.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            msg = f"'{file}' is no CSV table in UTF-8 ({error}): save it as one."
            raise ValueError(msg) from error


def hash_all(pictures: Sequence["Judged"], white: float | None) -> dict[str, str]:
    """Return the files by the digests of their pixels; a picture taken anew is a trial, a copy is refused."""
    from anople_anomalib.data.image_reading import image_digest, note_picture

    found: dict[str, str] = {}
    for picture in pictures:
        note_picture(found, image_digest(picture.path, white), picture.path)
    return found


def _judge_exported(options: Namespace, hashes: dict[str, str]) -> tuple[_Rows, "Subject"]:
    import torch

    from anople_anomalib.deployment import runtime
    from anople_anomalib.metrics.thresholds import Zone, look_zone
    from anople_anomalib.report.study import Subject

    exported = runtime.ExportedModel(options.model)
    metadata = exported.metadata
    _require_new(hashes, metadata.known_images)
    facts = {"model id": metadata.model_id, "versions": metadata.versions}
    threshold = _require_threshold(metadata.limits["image"])
    rows: _Rows = []
    frames = runtime.frames_in(map(Path, hashes.values()))
    runtime.write_verdicts(frames, exported, options.output, observe=lambda row, _: rows.append(dict(row)))
    zone = Zone(*metadata.look) if metadata.look else look_zone(torch.tensor(metadata.good), threshold)
    return rows, Subject(facts, threshold, zone, metadata.look is not None)


def _judge(options: Namespace, hashes: dict[str, str]) -> tuple[_Rows, "Subject"]:
    from anople_anomalib.data.image_series import ImageList
    from anople_anomalib.deployment.table import rows_of
    from anople_anomalib.report.study import Subject, model_facts

    model = load_judge(options, pictures=False)
    processor = model.require_thresholds()
    _require_new(hashes, processor.known_images)
    threshold = _require_threshold(float(processor.limit("image")))
    judge_series(model, ImageList(list(map(Path, hashes.values())), options.white), options)
    facts = model_facts(processor.calibration(), model.model_id())
    rows = rows_of(options.output / "predictions.jsonl")
    return rows, Subject(facts, threshold, processor.zone(), processor.look, options.white)


def _require_new(hashes: dict[str, str], known: Sequence[str]) -> None:
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


def _unjudged(path: Path, kind: str, part: str, station: str, trial: str) -> "Judged":
    """Return a picture of a part, which has no verdict yet; any name of good parts is the same kind."""
    from anople_anomalib.data.listing import is_good
    from anople_anomalib.metrics.agreement import Judged
    from anople_anomalib.metrics.bounds import GOOD

    return Judged(str(path), GOOD if is_good(kind) else kind, part, station, trial, verdict="", score=None)
