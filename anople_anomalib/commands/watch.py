# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Verdicts on images as they come into a folder, and the question whether the line is still as it was."""

import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event, Timer
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from .judge import add_judging, is_exported, judge_series, load_judge
from .terminal import FINE, NOT_MET, UsageError, allow_pixels, say_error

if TYPE_CHECKING:
    from anople_anomalib.data.watching import FolderWatch
    from anople_anomalib.deployment.sources import Camera

logger = logging.getLogger(__name__)

_GOOD = "good"  # the folder of the golden parts that must be OK; those in all others must not


def watch_options(parser: ArgumentParser) -> None:
    """Add the options of ``watch``."""
    parser.add_argument("folder", type=Path | None, nargs="?", help="folder to watch, with everything below it")
    camera = "the folder, or in its place a video, rtsp://HOST/PATH, usb:NUMBER or basler:SERIAL, for an exported model"
    parser.add_argument("--source", type=str | None, default=None, help=camera)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two frames of --source")
    add_judging(parser)
    parser.add_argument("--only_new", type=bool, default=False, help="whether images that are there are left alone")
    parser.add_argument("--polling", type=bool, default=False, help="for network drives that report no changes")
    parser.add_argument("--drift", type=bool, default=True, help="whether changes of light, lens or line are told")
    known = "known parts, in a folder 'good' and others, that must get their verdict at the start and from time to time"
    parser.add_argument("--golden", type=Path | None, default=None, help=known)
    parser.add_argument("--golden_hours", type=float, default=24.0, help="hours until they are judged again")
    parser.add_argument("--golden_tolerance", type=float, default=0.05, help="share by which their scores may change")


def watch(options: Namespace) -> int:
    """Judge every image that comes into a folder, or from a camera, until Ctrl-C.

    Those that are there come first; a later run adds to the rows of an earlier one.
    """
    if (options.folder is None) == (options.source is None):
        msg = "Give a folder to watch, or a camera or video by --source."
        raise UsageError(msg)
    if options.source is not None and Path(options.source).is_dir():
        options.folder, options.source = Path(options.source), None
    for place in (options.output, options.golden):
        if (
            options.folder is not None
            and place is not None
            and place.resolve().is_relative_to(options.folder.resolve())
        ):
            msg = f"{place} lies in the watched folder, where its pictures would be judged as well: take another place."
            raise UsageError(msg)
    if options.golden is not None and (options.golden_hours <= 0 or options.golden_tolerance <= 0):
        msg = "--golden_hours and --golden_tolerance must be above 0."
        raise UsageError(msg)
    exported = is_exported(options)
    if options.source is not None and not exported:
        msg = "--source takes an exported model: write one by anople export."
        raise UsageError(msg)
    allow_pixels(options.megapixels)
    if options.source is None:
        from anople_anomalib.data.watching import require_folder

        require_folder(options.folder)
    from anople_anomalib.utils.lines import sole_writer

    with sole_writer(options.output / "predictions"):  # before the rows of an earlier watch are read
        folder = _watched(options) if options.source is None else None
        source = folder or _camera(options)
        station = (
            _export_station(source, options) if folder is None or exported else _checkpoint_station(folder, options)
        )
        return _watch(station, source, options)


def _watched(options: Namespace) -> "FolderWatch":
    """Return the folder, without the images of earlier rows."""
    from anople_anomalib.data.file_states import State
    from anople_anomalib.data.watching import FolderWatch
    from anople_anomalib.deployment.table import rows_of

    rows = rows_of(options.output / "predictions.jsonl")
    known = {
        row["path"]: State(
            row.get("modified", 0), row.get("bytes", 0), changed=row.get("changed", 0), digest=row.get("sha256") or ""
        )
        for row in rows
    }
    return FolderWatch(options.folder, known, polling=options.polling, only_new=options.only_new)


def _camera(options: Namespace) -> "Camera":
    """Return the camera or video."""
    from anople_anomalib.deployment.sources import Camera

    return Camera(options.source, options.interval)


class _Station(NamedTuple):
    """One model at one folder."""

    judge_new: Callable[[], dict[str, int]]  # until the folder is stopped; returns the number of each verdict
    judge_known: Callable[[Path], list[dict[str, Any]]]  # the golden parts, into a folder; returns their rows


def _checkpoint_station(folder: "FolderWatch", options: Namespace) -> _Station:
    """Return a station with the model of a checkpoint."""
    from anople_anomalib.data.image_series import ImageList, WatchedFolder
    from anople_anomalib.deployment.drift_log import DriftLog

    model = load_judge(options, pictures=options.pictures)
    series = WatchedFolder(folder, options.white)
    if options.drift:
        series.observers.append(DriftLog(options.output, model.model_id()).add)

    def judge_known(place: Path) -> list[dict[str, Any]]:
        """Judge the golden parts."""
        rows: list[dict[str, Any]] = []
        images = ImageList([options.golden], options.white)
        images.observers.append(lambda row, _pixels: rows.append(dict(row)))
        judge_series(model, images, Namespace(**{**vars(options), "output": place}))
        return rows

    return _Station(lambda: judge_series(model, series, options, options.signal), judge_known)


def _export_station(source: "FolderWatch | Camera", options: Namespace) -> _Station:
    """Return a station with an exported model, without torch."""
    from anople_anomalib.data.watching import FolderWatch
    from anople_anomalib.deployment.drift_log import DriftLog
    from anople_anomalib.deployment.runtime import ExportedModel, frames_in, frames_of, write_verdicts

    model = ExportedModel(options.model)
    observe = DriftLog(options.output, model.metadata.model_id).add if options.drift else None

    def judge_new() -> dict[str, int]:
        """Judge the images that come."""
        kinds = {"pictures": options.pictures, "append": True, "observe": observe}
        frames = frames_of(source) if isinstance(source, FolderWatch) else source.frames()
        return write_verdicts(frames, model, options.output, options.signal, **kinds)

    def judge_known(place: Path) -> list[dict[str, Any]]:
        """Judge the golden parts."""
        rows: list[dict[str, Any]] = []
        known = frames_in([options.golden.absolute()])
        write_verdicts(known, model, place, pictures=options.pictures, observe=lambda row, _: rows.append(dict(row)))
        return rows

    return _Station(judge_new, judge_known)


def _watch(station: _Station, source: "FolderWatch | Camera", options: Namespace) -> int:
    """Judge the images of a source until its end, or SIGINT or SIGTERM; a second one of them ends at once."""
    ended = Event()

    def stop(number: int, frame: object) -> None:
        """Finish the image that is being judged, then end."""
        del frame
        signal.signal(number, signal.SIG_DFL)
        ended.set()
        source.stop()

    from anople_anomalib.deployment.runtime import exit_code

    usual = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    logger.info("Watching %s; Ctrl-C ends it. Rows go to %s.", source.name, options.output / "predictions.csv")
    code = FINE
    try:
        while True:
            if options.golden is not None and (faults := golden_faults(station.judge_known, options)):
                say_error(f"{' '.join(faults)} Nothing more is judged: look at lamp, camera and model.")
                return NOT_MET
            source.resume()
            if ended.is_set():
                return code
            break_off = Timer(3600 * options.golden_hours, source.stop)
            break_off.daemon = True
            if options.golden is not None:
                break_off.start()
            code = max(code, exit_code(station.judge_new()))
            break_off.cancel()
            if ended.is_set() or options.golden is None:
                return code
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def golden_faults(judge_known: Callable[[Path], list[dict[str, Any]]], options: Namespace) -> list[str]:
    """Judge the golden parts, and return a sentence for each that is not as it is known.

    Their rows and pictures go to the folder ``golden`` of the verdicts; so do their scores of the first time by this
    model, with which later ones are compared, and by which a part that is gone is missed. A fault is a row of the
    watch, too.

    Raises:
        ValueError: If there are no golden parts, or all are good, or none.
    """
    from anople_anomalib.deployment.table import LOOK, NOT_OK, OK, TableWriter, stamped, unjudged
    from anople_anomalib.utils.files import written_whole

    place = options.output / "golden"
    rows = judge_known(place)
    good = {row["path"]: Path(row["path"]).is_relative_to((options.golden / _GOOD).absolute()) for row in rows}
    if len(set(good.values())) < 2:
        msg = f"--golden {options.golden} must hold good parts in a folder 'good', and bad ones in another."
        raise ValueError(msg)
    model_id, faults = rows[0]["model"], dict[str, str]()
    first, rest = _first_scores(place / "scores.json", model_id), options.golden_tolerance
    for row in rows:
        path, score, known = row["path"], row["score"], "good" if good[row["path"]] else "bad"
        if row["verdict"] not in ((OK,) if good[path] else (NOT_OK, LOOK)):
            faults[path] = f"The golden part '{path}' is {row['verdict']}, and is known as {known}."
        elif abs(score - first.get(path, score)) > rest * first.get(path, score):
            faults[path] = f"The golden part '{path}' has the score {score:.4g}, and had {first[path]:.4g} at first."
    for path in sorted(first.keys() - good.keys()):
        faults[path] = f"The golden part '{path}' is missing; if that is meant, remove '{place / 'scores.json'}'."
    if not faults and good.keys() - first.keys():
        with written_whole(place / "scores.json") as temporary:
            scores = {row["path"]: row["score"] for row in rows} | first
            temporary.write_text(json.dumps({"model": model_id, "scores": scores}, indent=2), encoding="utf-8")
    if faults:
        with TableWriter(options.output, append=True) as table:
            fault_rows = ({**unjudged(fault), "path": path, "category": ""} for path, fault in faults.items())
            table.write(stamped(row, model_id) for row in fault_rows)
    return [*faults.values()]


def _first_scores(file: Path, model_id: str) -> dict[str, float]:
    """Return the scores that a model gave to the golden parts the first time; none, if it has not judged them yet."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        scores = {path: float(score) for path, score in content["scores"].items()}
        return scores if content["model"] == model_id else {}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        msg = f"'{file}' does not hold the scores of the golden parts: remove it, and the next ones are the first."
        raise ValueError(msg) from error
