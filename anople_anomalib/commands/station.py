# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anople``, in a process of its own: few words, errors of one sentence, exit codes.

0: fine; 1: an error; 2: wrong usage; 3: some images could not be judged, or taken; 4: criteria failed or not proven;
130: interrupted. ``ANOPLE_TRACEBACK=1`` shows whole tracebacks and every message of the libraries. A subcommand is a
function that adds its options to a parser, and one that runs it, which imports the libraries that are slow to import.

The distribution ``anople-runtime`` has the subcommands of this module alone: an exported model needs no torch.
"""

import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from jsonargparse import ArgumentParser, Namespace

from . import judge, watch
from .terminal import ERROR, INTERRUPTED, USAGE, Parser, UsageError, quieten, say_error, wants_everything

Commands = Mapping[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], int]]]
"""Subcommands by their names: a function that adds the options, and one that runs with them."""

COMMANDS: Commands = {
    "judge": (judge.judge_options, judge.judge),
    "watch": (watch.watch_options, watch.watch),
    "serve": (judge.serve_options, judge.serve),
}
_SECONDS_WITHOUT_ANSWER = 10.0  # of a server: downloads of anomalib and of open_clip wait for ever


def make_parser(commands: Commands) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command, and those of its subcommands by their names."""
    parser = Parser(prog="anople", description="Few-shot anomaly detection: teach good parts, judge others.")
    subcommands = parser.add_subcommands(dest="command", metavar="COMMAND")
    parsers = {}
    for name, (add_options, run_command) in commands.items():
        text = (run_command.__doc__ or "").partition("\n")[0]
        parsers[name] = Parser(prog=f"anople {name}", description=text)
        add_options(parsers[name])
        subcommands.add_subcommand(name, parsers[name], help=text)
    parser.known = [*commands]
    return parser, parsers


def run(commands: Commands, arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, or those of the process, which is then made quiet; return the exit code."""
    try:
        parser, parsers = make_parser(commands)
        options = parser.parse_args(arguments)
        name = options.command
        if arguments is None:
            quieten()
            socket.setdefaulttimeout(_SECONDS_WITHOUT_ANSWER)
        _, run_command = commands[name]
        return run_command(options[name])
    except UsageError as error:
        parsers[name].error(str(error))
        return USAGE
    except KeyboardInterrupt:
        say_error("interrupted: the finished part is kept")
        return INTERRUPTED
    except Exception as error:  # the end of the process: every error is one sentence
        if wants_everything():
            raise
        say_error(error)
        return ERROR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of these subcommands, see :func:`run`."""
    return run(COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
