# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Things to take away: checkpoint, OpenVINO model, table of verdicts, and the commands that do the same."""

import shlex
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from anople_anomalib.deployment.table import Judgment, TableWriter, stamped

from .session import Session
from .training import Answer
from .uploads import AppError, safe_name


def checkpoint(session: Session, reason: str = "") -> Path:
    """Write the model with its present memory and thresholds as a checkpoint of anomalib."""
    path = place_of(session, ".ckpt")
    session.settled(reason).save_checkpoint(path)
    return path


def openvino(session: Session, reason: str = "") -> Path:
    """Write the model for OpenVINO, as a ZIP file; an :class:`AppError` where that is not installed."""
    model, root = session.settled(reason), session.folder / "export"
    if find_spec("openvino") is None:
        msg = 'The export needs OpenVINO: pip install "anople-anomalib[export]".'
        raise AppError(msg)
    shutil.rmtree(root, ignore_errors=True)
    written = Path(model.to_openvino(root))
    return Path(shutil.make_archive(str(place_of(session, "_openvino")), "zip", written.parent))


def table(session: Session, reason: str = "") -> Path:
    """Write the verdicts as the table of ``anomalib predict``, worst first; an :class:`AppError` without any."""
    if not session.answers:
        msg = "There are no verdicts yet: ask about an image first."
        raise AppError(msg)
    place = place_of(session, "_verdicts")
    with TableWriter(place.parent, place.name) as writer:
        writer.write(rows_of(session, session.answers, reason))
    return writer.csv_path


def rows_of(session: Session, answers: Iterable[Answer], reason: str = "") -> list[dict[str, Any]]:
    """Return the rows of answers, by the present thresholds."""
    model_id = session.settled(reason).model_id()
    return [_row(session, answer, model_id) for answer in answers]


def _row(session: Session, answer: Answer, model_id: str) -> dict[str, Any]:
    """Return the row of an answer."""
    image, pixel = session.thresholds
    with Image.open(answer.photo.path) as file:
        size = file.size
    normalized, bad, good = answer.score / (answer.score + image), session.is_bad(answer), session.good_scores
    heat = answer.heat / (answer.heat + pixel)  # as every other row has its peaks
    judgment = Judgment(answer.score, normalized, image, bad, answer.heat > pixel, heat, None, good)
    row = judgment.row(size, remedy="set one")
    return stamped({**row, "path": answer.photo.name, "category": session.part}, model_id)


def place_of(session: Session, end: str) -> Path:
    """Return where something to take away is written."""
    folder = session.folder / "taken"
    folder.mkdir(exist_ok=True)
    return folder / f"{safe_name(session.part)}{end}"


def commands(session: Session) -> str:
    """Return the command lines that do the same; an :class:`AppError` without a model. Folders are to be filled in."""
    _ = session.model
    lines = []
    if session.epochs:
        lines = [
            "# GOOD: the folder of the good images",
            (
                f"anomalib train --model AnoPLe --model.preset {session.preset} --model.k_shot null "
                f"--model.training.epochs {session.epochs} --data Folder --data.name {shlex.quote(session.part)} "
                "--data.root . --data.normal_dir GOOD --data.val_split_mode none"
            ),
        ]
    lines.append("# model.ckpt: the checkpoint of that run, or the one from this page")
    if session.corrected:
        lines += [
            "# CORRECTED: the folder of the images that were said to be good",
            "anople learn-more CORRECTED --model model.ckpt --output model.ckpt",
        ]
    values = "--image_threshold {:.6g} --pixel_threshold {:.6g}".format(*session.thresholds)
    lines += [
        f"anople threshold --model model.ckpt --output final.ckpt {values}",
        "# NEW: the folder of the images to judge",
        "anople judge NEW --model final.ckpt",
        "anople export --model final.ckpt --type openvino",
    ]
    return "\n".join(lines)
