# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Less noise in this package's own programs: every message once, unwrapped, and nothing that a user cannot use."""

import logging
import sys
import warnings

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


def without_noise() -> None:
    """Show a program's messages at once, plain and without the noise."""
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
