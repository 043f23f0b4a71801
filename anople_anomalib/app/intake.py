# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a person takes away: checkpoint, OpenVINO model, table of verdicts, and the commands that do the same."""

import shlex
import shutil
from pathlib import Path

from PIL import Image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.deployment.table import NOT_OK, OK, TableWriter, regions_of

from .judging import Answer
from .messages import AppError
from .session import Session
from .uploads import safe_name


def checkpoint(session: Session) -> Path:
    """Write the model with its present memory and thresholds as a checkpoint of anomalib.

    Raises:
        AppError: If there is no model.
    """
    path = _folder(session) / f"{safe_name(session.part)}.ckpt"
    _with_thresholds(session).save_checkpoint(path)
    return path


def openvino(session: Session) -> Path:
    """Write the model for OpenVINO, as a ZIP file.

    Raises:
        AppError: If there is no model, or OpenVINO is not installed.
    """
    model = _with_thresholds(session)
    root = session.folder / "export"
    shutil.rmtree(root, ignore_errors=True)
    try:
        import openvino  # noqa: F401  # anomalib's message would not say what to install

        written = model.to_openvino(root)
    except ImportError as error:
        msg = 'The export needs OpenVINO: pip install "anople-anomalib[export]".'
        raise AppError(msg) from error
    stem = _folder(session) / f"{safe_name(session.part)}_openvino"
    return Path(shutil.make_archive(str(stem), "zip", Path(written).parent))


def table(session: Session) -> Path:
    """Write the verdicts as the table that ``anomalib predict`` writes, worst first.

    Raises:
        AppError: If nothing was asked.
    """
    if not session.answers:
        msg = "There are no verdicts yet: ask about an image first."
        raise AppError(msg)
    with TableWriter(_folder(session), f"{safe_name(session.part)}_verdicts") as writer:
        writer.write(_row(session, answer) for answer in session.sorted_answers)
    return writer.csv_path


def commands(session: Session) -> str:
    """Return the command lines that do the same, with the folders left for the reader to fill in.

    Raises:
        AppError: If there is no model.
    """
    _ = session.model
    part = shlex.quote(session.part)
    lines = []
    if session.epochs:
        lines += [
            "# GOOD: the folder of the good images",
            (
                f"anomalib train --model AnoPLe --model.preset {session.preset} --model.k_shot null "
                f"--model.training.epochs {session.epochs} "
                f"--data Folder --data.name {part} --data.root . --data.normal_dir GOOD --data.val_split_mode none"
            ),
        ]
    lines.append("# model.ckpt: the checkpoint of that run, or the one from this page")
    if session.corrected:
        lines += [
            "# CORRECTED: the folder of the images that were said to be good",
            "anople learn-more CORRECTED --model model.ckpt --output model.ckpt",
        ]
    image, pixel = session.thresholds
    return "\n".join(
        [
            *lines,
            (
                f"anople threshold --model model.ckpt --output final.ckpt --image_threshold {image:.6g} "
                f"--pixel_threshold {pixel:.6g}"
            ),
            "# NEW: the folder of the images to judge",
            "anople judge NEW --model final.ckpt",
            "anople export --model final.ckpt --type openvino",
        ]
    )


def _row(session: Session, answer: Answer) -> dict[str, object]:
    """Return a row of the table."""
    heat, (image, pixel) = answer.heat, session.thresholds
    with Image.open(answer.photo.path) as file:
        size = file.size
    return {
        "path": answer.photo.name,
        "category": session.part,
        "verdict": NOT_OK if session.is_bad(answer) else OK,
        "score": answer.score,
        "normalized_score": answer.score / (answer.score + image),
        "threshold": image,
        "regions": regions_of(heat > pixel, heat, size),
        "seconds": None,
        "error": "",
    }


def _with_thresholds(session: Session) -> AnoPLe:
    session.model.set_thresholds(*session.thresholds)
    return session.model


def _folder(session: Session) -> Path:
    folder = session.folder / "taken"
    folder.mkdir(exist_ok=True)
    return folder
