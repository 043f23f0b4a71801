# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Errors of the ``anomalib`` command whose last line is the message.

anomalib's parser wraps what a constructor raises in two tracebacks and the whole configuration, some 200 lines. Here
the message is taken out again. ``ANOPLE_TRACEBACK=1`` brings back all that is left out.
"""

import difflib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType

TRACEBACK = "ANOPLE_TRACEBACK"
"""Environment variable that asks for whole tracebacks."""

_PACKAGE = Path(__file__).parents[1]
_USER_ERRORS = (ValueError, TypeError, RuntimeError, OSError, ArithmeticError)
_WRAPPED = "Does not validate against any of the Union subtypes"
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NO_OPTION = re.compile(r"Problem with given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted")
_RUNS = ("fit", "train", "validate", "test", "predict")
"""Subcommands of one run; those of pipelines are of many, which they report themselves."""
_PLACES = {"model": "anomalib.models", "data": "anomalib.data"}


def runs_from_command_line(*subcommands: str) -> bool:
    """Return whether this process is the ``anomalib`` command, where nobody takes what a method returns.

    Args:
        *subcommands: Subcommands of which it is one; none for any.
    """
    return Path(sys.argv[0]).stem == "anomalib" and (
        not subcommands or sys.argv[1:2] in [[name] for name in subcommands]
    )


UNREADABLE = 3
"""Exit code of the command when it went on without images that could not be judged."""
_exit_codes: set[int] = set()


def end_with(code: int) -> None:
    """Let the command of one run end with an exit code other than 0, if nothing else ends it."""
    _exit_codes.add(code)


def exit_code() -> int | None:
    """Return the exit code of :func:`end_with`, ``None`` if it was not called."""
    return max(_exit_codes, default=None)


_last_words: list[str] = []


def say_at_end(text: str) -> None:
    """Let the ``anomalib`` command of one run end with a text, if it succeeds; no other program says it."""
    _last_words[:] = [text]


def _with_exit_code(main: Callable[[], object]) -> Callable[[], object]:
    """Return a main function that ends with :func:`say_at_end` and whose value is the exit code of :func:`end_with`.

    The command's script hands the value to ``sys.exit``.
    """

    def run() -> object:
        """Run the command, say the last words, return the exit code."""
        code = main()
        if not runs_from_command_line(*_RUNS):
            return code
        sys.stderr.write("".join(f"{text}\n" for text in _last_words))
        return code or exit_code()

    return run


def wants_everything() -> bool:
    """Return whether the environment asks for tracebacks and all messages."""
    return bool(os.environ.get(TRACEBACK))


def before_main(cli: ModuleType, do: Callable[[], None]) -> None:
    """Let the ``anomalib`` command do something before it reads its arguments.

    Args:
        cli: The module ``anomalib.cli.cli``, whose main function is replaced.
        do: What to do.
    """
    main: Callable[[], object] = cli.main

    def run() -> object:
        """Do it, then run the command."""
        do()
        return main()

    cli.main = run  # type: ignore[attr-defined]


def shorten_errors(cli: ModuleType) -> None:
    """Let the ``anomalib`` command end its errors in one message; does nothing in any other program.

    Args:
        cli: The module ``anomalib.cli.cli``, whose parser and whose hook for uncaught exceptions are replaced.
    """
    if not runs_from_command_line():
        return
    if (main := getattr(cli, "main", None)) is not None:
        cli.main = _with_exit_code(main)  # type: ignore[attr-defined]
    if wants_everything():
        return
    parser: type = cli.ArgumentParser

    class BriefParser(parser):
        """The command's parser, whose errors are :func:`brief`."""

        def error(self, message: str, ex: Exception | None = None) -> None:
            """End the process with a brief message."""
            super().error(brief(message), ex)

    cli.ArgumentParser = BriefParser  # type: ignore[attr-defined]  # jsonargparse lends its class to the module
    sys.excepthook = _hook(sys.excepthook)


def brief(message: str) -> str:
    """Take the one message out of an error of the parser.

    Args:
        message: Text of the error.

    Returns:
        What is wrong, which value and, where it can be guessed, what was meant; the same text if it is no such error.
    """
    group = next((name for name in _PLACES if f'key "{name}"' in message), "model")
    if found := _NO_OPTION.search(message):
        return _no_option(*found.groups())
    if (found := _NO_CLASS.search(message)) and "." not in found[1]:
        names = getattr(import_module(_PLACES[group]), "__all__", [])
        return f"There is no {group} {found[1]!r}{did_you_mean(found[1], names)}: give the name of a class of anomalib."
    if _WRAPPED not in message:
        return message
    errors = message.partition("Errors:\n")[2].partition("\nGiven value type:")[0]
    reasons = re.split(r"^\s*- ", errors, flags=re.MULTILINE)
    kept = [" ".join(reason.split()) for reason in reasons if reason.strip() and "<class 'NoneType'>" not in reason]
    return kept[-1] if kept else message


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return the part of an error message with the known name that is most like a word, or nothing.

    Args:
        word: What was given, whatever it is.
        known: The names there are.

    Returns:
        For example ``" (did you mean 'brick'?)"``, or ``""``.
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), names, n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def _no_option(class_path: str, option: str) -> str:
    """Return the message about an argument that a class does not have."""
    module, _, name = class_path.rpartition(".")
    known = [key for key in inspect.signature(getattr(import_module(module), name)).parameters if key != "self"]
    return f"{name} has no argument {option!r}{did_you_mean(option, known)}: it takes {', '.join(known)}."


_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


def _hook(usual: _Hook) -> _Hook:
    """Return a hook for uncaught exceptions that prints only the message of an error that a user can mend."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Print one message, or what is usual."""
        if issubclass(kind, _USER_ERRORS) and (_WRAPPED in str(error) or _raised_here(trace)):
            sys.stderr.write(f"({TRACEBACK}=1 shows where it was raised.)\nerror: {brief(str(error))}\n")
        else:
            usual(kind, error, trace)

    return show


def _raised_here(trace: TracebackType | None) -> bool:
    """Return whether an exception was raised by a module of this package."""
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    return bool(frames) and _PACKAGE in Path(frames[-1].f_code.co_filename).parents
