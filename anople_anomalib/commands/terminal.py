# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Words of the ``anople`` command: a parser, shared options, errors of one sentence, and libraries that keep quiet."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from anople_anomalib.utils.arguments import did_you_mean
from anople_anomalib.utils.files import one_line

FINE, ERROR, USAGE, UNJUDGED, NOT_MET, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes."""

MEGAPIXELS = 178.0
"""Largest image that is opened unasked, as Pillow has it."""
_SHARED: dict[str, dict[str, Any]] = {
    "model": {"type": Path, "required": True, "help": "checkpoint of anople teach or anomalib train"},
    "look": {"type": bool | None, "default": None, "help": "whether doubtful parts get the verdict LOOK"},
    "white": {"type": float | None, "default": None, "help": "white of images of 16 bits, 4095 for 12"},
    "megapixels": {"type": float, "default": MEGAPIXELS, "help": "largest image that is opened"},
    "reason": {"type": str, "default": "", "help": "reason, for the journal beside the checkpoint"},
    "accelerator": {"type": str, "default": "auto", "help": "as in Lightning's Trainer"},
}
"""Options of several subcommands."""

TRACEBACK = "ANOPLE_TRACEBACK"
"""Environment variable that asks for whole tracebacks and all messages."""

_OF_THE_USER = (ValueError, TypeError, RuntimeError, OSError, ArithmeticError, ImportError)
_LIGHTNING = ("lightning", "lightning.fabric", "lightning.pytorch", "lightning_fabric", "pytorch_lightning")
_SPEAKERS = ("anople_anomalib.commands", "anople_anomalib.deployment")
"""Loggers whose information is for users of the command."""
_KNOWN = ("ckpt_path is not provided", "Zero subset length encountered", "will override existing callbacks")
_KNOWN_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the frozen backbones
    r"`?isinstance\(treespec",
    r"This DataLoader will create",
    r"'pin_memory' argument is set as true",
    r"The image decoding and encoding capabilities of TorchVision",
    r"The '\w+' does not have many workers",
    r"Total length of `\w+` across ranks is zero",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"Trying to infer the `batch_size`",
    r"No (negative|positive) samples ",  # of metrics that are not defined
    r"Image size .* could be decompression bomb",  # below the limit
    r"Importing from timm.models.layers is deprecated",
    r"The anomalib.models.components.dinov2 package is deprecated",
)


class UsageError(ValueError):
    """Options that do not go together."""


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors are one sentence with the probably meant word."""

    known: Sequence[str] = ()  # subcommands

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the process with one sentence."""
        if wants_everything() and ex is not None:
            raise ex
        text = self._with_suggestion(" ".join(message.split()))
        sys.stderr.write(f"({self.prog.replace(' [options]', '')} --help shows all options.)\nerror: {text}\n")
        sys.exit(USAGE)

    def _with_suggestion(self, message: str) -> str:
        if self.known and (found := re.search(r"invalid choice: '([^']*)'|but got \"?([\w-]+)", message)):
            word = found[1] or found[2]
            return f"There is no command {word!r}{did_you_mean(word, self.known)}: give one of {', '.join(self.known)}."
        if found := re.search(r"[Uu]nrecognized arguments: (-\S+)", message):
            word = found[1].partition("=")[0]
            options = [option for action in self._actions for option in action.option_strings if option[:2] == "--"]
            return f"There is no option {word}{did_you_mean(word, options)}: give one of {', '.join(options)}."
        return message


def add_shared(parser: ArgumentParser, *names: str) -> None:
    """Add options that several subcommands have."""
    for name in names:
        parser.add_argument(f"--{name}", **_SHARED[name])


def wants_everything() -> bool:
    """Return whether the environment asks for tracebacks and all messages."""
    return bool(os.environ.get(TRACEBACK))


def say_error(error: BaseException | str) -> None:
    """Write an error as one sentence, the last line of the process."""
    text = " ".join(str(error).split())
    if isinstance(error, BaseException) and not isinstance(error, _OF_THE_USER):
        text = f"a fault of this program, {type(error).__name__}: {text}; please report it with its traceback"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: '{error.filename}'"
    elif isinstance(error, BaseException):
        text = text or type(error).__name__
    hint = f"({TRACEBACK}=1 shows where it was raised.)\n" if isinstance(error, BaseException) else ""
    sys.stderr.write(f"{hint}error: {text}\n")


def quieten() -> None:
    """Let every message of this process be one line, and leave out those that nobody can mend or use."""
    if wants_everything():
        return
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    handler.addFilter(_is_shown)
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger("anople_anomalib").setLevel(logging.INFO)


def allow_pixels(megapixels: float) -> None:
    """Let this process open images of so many pixels: Pillow refuses more than 179 million, which a line scan has."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = round(megapixels * 1e6 / 2)  # it warns from there on, and refuses twice as many


def quiet_lightning() -> None:
    """Let Lightning speak as the rest does: it adds handlers of its own when it is imported."""
    for name in () if wants_everything() else _LIGHTNING:
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True


def quiet_trainer(accelerator: str) -> dict[str, Any]:
    """Return arguments of Lightning's trainer for a run that writes and says nothing of its own.

    Raises:
        ValueError: If the accelerator is not there.
    """
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    quiet_lightning()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    arguments: dict[str, Any] = {"accelerator": accelerator, "devices": 1, **quiet}
    try:
        Trainer(**arguments, enable_checkpointing=False)
    except (MisconfigurationException, ValueError) as error:
        msg = f"--accelerator {accelerator} cannot be used here ({one_line(error)}): give auto, or cpu."
        raise ValueError(msg) from error
    return arguments


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a message is of use: the information of libraries is about their own inner life."""
    if record.levelno < logging.WARNING:
        return record.name.startswith(_SPEAKERS)
    return not any(known in record.getMessage() for known in _KNOWN)


class _Formatter(logging.Formatter):
    """The message alone; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
