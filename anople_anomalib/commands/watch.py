# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Judge every image that comes into a folder, until Ctrl-C.

Usage:
    anople-watch --ckpt_path model.ckpt --folder incoming --output verdicts
"""

import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data.watching import WatchedFolder
from anople_anomalib.deployment.predictions import PredictionTable
from anople_anomalib.utils.quiet import without_noise

UNREADABLE = 3
"""Exit code where images could not be judged."""

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Load a checkpoint and judge images as they come, those that are there first."""
    parser = ArgumentParser(
        prog="anople-watch", description="Judge every image that comes into a folder, until Ctrl-C."
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a finished training run")
    parser.add_argument("--folder", type=Path, required=True, help="folder to watch, with everything below it")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("verdicts"),
        help="folder of predictions.csv, predictions.jsonl and images; a later run adds to it",
    )
    parser.add_argument("--only_new", type=bool, default=False, help="whether images that are there are left alone")
    parser.add_argument("--polling", type=bool, default=False, help="for network drives that report no changes")
    parser.add_argument("--accelerator", default="auto", help="as in anomalib's --trainer.accelerator")
    parsed = parser.parse_args(arguments)
    without_noise()
    try:
        if (output := parsed.output.resolve()).is_relative_to(parsed.folder.resolve()):
            parser.error(
                f"--output {parsed.output} lies in the watched folder, where its images would be judged as well"
            )
        folder = WatchedFolder(parsed.folder, _known(output, only_new=parsed.only_new), polling=parsed.polling)
        model = AnoPLe.load_from_checkpoint(parsed.ckpt_path)
        sys.exit(watch(model, folder, output, parsed.accelerator))
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def watch(model: AnoPLe, folder: WatchedFolder, output: Path, accelerator: str = "auto") -> int:
    """Judge the images of a folder until SIGINT or SIGTERM; a second one of them ends at once.

    Args:
        model: The trained model.
        folder: The folder.
        output: Where rows and pictures go.
        accelerator: As in Lightning's ``Trainer``.

    Returns:
        An exit code: 0, or that of images that could not be judged.
    """

    def stop(number: int, frame: object) -> None:
        """Finish the image that is being judged, then end."""
        del frame
        signal.signal(number, signal.SIG_DFL)
        folder.stop()

    trainer = Trainer(
        default_root_dir=output,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    usual = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    logger.info("Watching %s; Ctrl-C ends it. Rows go to %s.", folder.folder, output / "predictions.csv")
    try:
        trainer.predict(model, dataloaders=[folder], return_predictions=False)
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    return UNREADABLE if any(table.errors for table in trainer.callbacks if isinstance(table, PredictionTable)) else 0  # type: ignore[attr-defined]


def _known(output: Path, *, only_new: bool) -> Callable[[Path], bool] | None:
    """Return which files are not judged: those that an earlier run has judged and that are older than its rows."""
    table = output / "predictions.jsonl"
    if only_new:
        return Path.is_file
    if not table.is_file():
        return None
    lines = table.read_text(encoding="utf-8").splitlines()
    whole = [line for line in lines if line.endswith("}")]  # the last one is cut off if the earlier run was killed
    judged, until = {json.loads(line)["path"] for line in whole}, table.stat().st_mtime
    return lambda path: str(path) in judged and path.stat().st_mtime <= until


if __name__ == "__main__":
    main()
