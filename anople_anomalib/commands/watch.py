# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Judge every image that comes into a folder, until Ctrl-C.

Usage:
    anople watch FOLDER --model bottle.ckpt --output verdicts
"""

import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from .judge import add_shared_arguments, judge, load
from .terminal import UsageError, allow_pixels

if TYPE_CHECKING:
    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.data.watching import WatchedFolder

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("folder", type=Path, help="folder to watch, with everything below it")
    add_shared_arguments(parser)
    parser.add_argument("--only_new", type=bool, default=False, help="whether images that are there are left alone")
    parser.add_argument("--polling", type=bool, default=False, help="for network drives that report no changes")


def run(options: Namespace) -> int:
    """Judge images as they come, those that are there first; a later run adds to the rows of an earlier one."""
    from filelock import FileLock, Timeout

    from anople_anomalib.data.watching import State, WatchedFolder
    from anople_anomalib.deployment.table import rows_of

    if options.output.resolve().is_relative_to(options.folder.resolve()):
        msg = f"--output {options.output} lies in the watched folder, where its pictures would be judged as well."
        raise UsageError(msg)
    rows = rows_of(options.output / "predictions.jsonl")
    known = {row["path"]: State(row["modified"], row["bytes"]) for row in rows if row.get("modified") is not None}
    folder = WatchedFolder(options.folder, known, options.white, polling=options.polling, only_new=options.only_new)
    allow_pixels(options.megapixels)
    model = load(options)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(options.output / ".watch.lock", timeout=0):
            return _watch(model, folder, options)
    except Timeout as error:
        msg = f"Another watch writes to '{options.output}': give this one another --output."
        raise ValueError(msg) from error


def _watch(model: "AnoPLe", folder: "WatchedFolder", options: Namespace) -> int:
    """Judge the images of a folder until SIGINT or SIGTERM; a second one of them ends at once."""

    def stop(number: int, frame: object) -> None:
        """Finish the image that is being judged, then end."""
        del frame
        signal.signal(number, signal.SIG_DFL)
        folder.stop()

    usual = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    logger.info("Watching %s; Ctrl-C ends it. Rows go to %s.", folder.folder, options.output / "predictions.csv")
    try:
        return judge(model, folder, options)
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
