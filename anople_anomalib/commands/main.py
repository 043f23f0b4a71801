# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anople``, in a process of its own: few words, errors of one sentence, exit codes.

0: fine; 1: an error; 2: wrong usage; 3: some images could not be judged; 4: criteria failed or not proven; 130:
interrupted. ``ANOPLE_TRACEBACK=1`` shows whole tracebacks and every message of the libraries. A subcommand is a module
with ``add_arguments`` and ``run``, which imports the libraries that are slow to import.
"""

import socket
import sys
from collections.abc import Sequence

from . import check, compare, convert, export, judge, learn_more, page, qualify, report, serve, teach, threshold, watch
from .terminal import ERROR, INTERRUPTED, USAGE, Parser, UsageError, quieten, say_error, wants_everything

COMMANDS = {
    "teach": teach,
    "judge": judge,
    "watch": watch,
    "serve": serve,
    "threshold": threshold,
    "qualify": qualify,
    "learn-more": learn_more,
    "export": export,
    "check": check,
    "page": page,
    "compare": compare,
    "report": report,
    "convert": convert,
}
_SECONDS_WITHOUT_ANSWER = 10.0  # of a server: downloads of anomalib and of open_clip wait for ever


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command, and those of the subcommands by their names."""
    parser = Parser(prog="anople", description="Few-shot anomaly detection: teach good parts, judge others.")
    subcommands = parser.add_subcommands(dest="command", metavar="COMMAND")
    parsers = {}
    for name, module in COMMANDS.items():
        text = (module.__doc__ or "").partition("\n")[0]
        parsers[name] = Parser(prog=f"anople {name}", description=text)
        module.add_arguments(parsers[name])
        subcommands.add_subcommand(name, parsers[name], help=text)
    parser.known = [*COMMANDS]
    return parser, parsers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Arguments of the command line; ``None`` for the process's own, which is then made quiet.

    Returns:
        The exit code.
    """
    try:
        parser, parsers = make_parser()
        options = parser.parse_args(arguments)
        name = options.command
        if arguments is None:
            quieten()
            socket.setdefaulttimeout(_SECONDS_WITHOUT_ANSWER)
        return COMMANDS[name].run(options[name])
    except UsageError as error:
        parsers[name].error(str(error))
        return USAGE
    except KeyboardInterrupt:
        say_error("interrupted: what was finished is kept")
        return INTERRUPTED
    except Exception as error:  # the end of the process: every error is one sentence
        if wants_everything():
            raise
        say_error(error)
        return ERROR


if __name__ == "__main__":
    sys.exit(main())
