# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Less noise on the command line: every message once, unwrapped, and nothing that a user can neither mend nor use.

In the ``anomalib`` command alone, and there for this package's model alone.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from .terminal import runs_from_command_line, wants_everything

_NAMES = ("AnoPLe", "anople_anomalib")
_LIGHTNING = ("lightning", "lightning.fabric", "lightning.pytorch", "lightning_fabric", "pytorch_lightning")
_WARNINGS_ONLY = ("timm", "anomalib", "httpx", *_LIGHTNING)
"""Loggers whose information is about their own inner life."""
_KNOWN = (
    "ckpt_path is not provided",  # the test after a training run
    "Zero subset length encountered",  # a data set without defects is a right one
    "will override existing callbacks",
)
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
    r"No (negative|positive) samples ",  # of metrics that are not defined, which one line of ours says
    r"The dirpath has changed from ",  # results of a prediction lie elsewhere than those of the training
)
_IMPORT_WARNINGS = (
    "Importing from timm.models.layers is deprecated",
    "The anomalib.models.components.dinov2 package is deprecated",
)
"""What anomalib's own imports say, before anything else is known of the command."""


def is_about_this_package(arguments: Sequence[str]) -> bool:
    """Return whether arguments of the command, or a configuration that they name, name this package's model.

    Args:
        arguments: What follows the name of the command.
    """
    texts = [argument for argument in arguments if any(name in argument for name in _NAMES)]
    files = [Path(argument.removeprefix("--config=")) for argument in arguments if argument.endswith((".yaml", ".yml"))]
    texts += [file.read_text(encoding="utf-8", errors="ignore") for file in files if file.is_file()]
    return any("AnoPLe" in text for text in texts)


def quieten_imports() -> None:
    """Stop the noise of anomalib's imports, in commands about this package's model; to be called before them."""
    own_command = Path(sys.argv[0]).stem.startswith("anople-")
    about = own_command or (runs_from_command_line() and is_about_this_package(sys.argv[1:]))
    if about and not wants_everything():
        for message in _IMPORT_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=FutureWarning)


def quieten(cli: ModuleType) -> None:
    """Stop the noise of a run of this package's model.

    Args:
        cli: The module ``anomalib.cli.cli``, whose function that sets up logging is replaced.
    """
    usual: Callable[[], None] = cli.configure_logger

    def configure_logger() -> None:
        """Set up logging as usual, but with one handler."""
        usual()
        _one_handler()

    cli.configure_logger = configure_logger  # type: ignore[attr-defined]
    _ignore_known_warnings()


def without_noise() -> None:
    """Show a program's messages at once, plain and without the noise, as :func:`quieten` does for the command."""
    _ignore_known_warnings()
    _one_handler()
    logging.getLogger("anople_anomalib").setLevel(logging.INFO)


def _ignore_known_warnings() -> None:
    """Ignore warnings that nobody can mend or use."""
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _one_handler() -> None:
    """Replace anomalib's two handlers of every message by one that breaks no line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    handler.addFilter(lambda record: not any(known in record.getMessage() for known in _KNOWN))
    logging.getLogger().handlers[:] = [handler]
    for name in _LIGHTNING:
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
    for name in _WARNINGS_ONLY:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Formatter(logging.Formatter):
    """The message alone; a warning says that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
