# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The model of a checkpoint on the command line, where ``--ckpt_path`` alone names weights and no arguments."""

import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoint_files import read_checkpoint
from .checkpoints import arguments_of

_SUBCOMMANDS = ("predict", "test", "validate", "export")


def with_arguments_of_checkpoint(
    arguments: Sequence[str], names: Sequence[str], defaults: Mapping[str, Any]
) -> list[str]:
    """Add the arguments that a checkpoint's model was built with, where they are not the default and none were given.

    Args:
        arguments: What follows the name of the ``anomalib`` command.
        names: The names of the model's class.
        defaults: Default values of its arguments.

    Returns:
        All arguments. The same ones for other subcommands and models, and with a configuration file.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it cannot be read. The command itself would first miss the weights of the default backbone.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--model", "--model.class_path", "--ckpt_path", "--config"):
        parser.add_argument(option)
    given, rest = parser.parse_known_args(list(arguments[1:]))
    model = given.model or vars(given)["model.class_path"]
    if not arguments or arguments[0] not in _SUBCOMMANDS or given.config or model not in names:
        return list(arguments)
    if not given.ckpt_path:
        return list(arguments)
    if not Path(given.ckpt_path).is_file():
        msg = f"There is no checkpoint '{given.ckpt_path}': check the path given as --ckpt_path."
        raise FileNotFoundError(msg)
    built_with = arguments_of(read_checkpoint(given.ckpt_path))
    typed = {text.partition("=")[0] for text in rest}
    added = [
        f"--model.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in built_with.items()
        if name in defaults and value != _plain(defaults[name]) and f"--model.{name}" not in typed
    ]
    return [*arguments, *added]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
