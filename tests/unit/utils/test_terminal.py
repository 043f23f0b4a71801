# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Errors of the command whose last line is the message."""

import sys
from types import ModuleType

import pytest
from anomalib.cli import cli
from jsonargparse import ArgumentParser

from anople_anomalib.utils import terminal
from anople_anomalib.utils.terminal import TRACEBACK, brief, did_you_mean, runs_from_command_line, shorten_errors

WRAPPED = """Does not validate against any of the Union subtypes
Subtypes: [<class 'NoneType'>, <class 'anomalib.models.components.base.anomalib_module.AnomalibModule'>]
Errors:
  - Expected a <class 'NoneType'>
  - {}
Given value type: <class 'jsonargparse._namespace.Namespace'>
Given value: Namespace(class_path='anople_anomalib.AnoPLe', init_args=Namespace(seed=None))"""


def test_the_message_of_a_constructor_is_taken_out() -> None:
    assert brief(WRAPPED.format("k_shot must be an integer,\n    1 or more, got 0.")) == (
        "k_shot must be an integer, 1 or more, got 0."
    )


def test_a_class_that_does_not_exist_gets_a_suggestion() -> None:
    message = 'Parser key "model":\n' + WRAPPED.format("Expected a dot import path string: AnoPle")
    assert brief(message).startswith("There is no model 'AnoPle' (did you mean 'AnoPLe'?)")
    message = 'Parser key "data":\n' + WRAPPED.format("Expected a dot import path string: MVTecAd")
    assert brief(message).startswith("There is no data 'MVTecAd' (did you mean 'MVTecAD'?)")


def test_an_argument_that_does_not_exist_gets_a_suggestion() -> None:
    problem = "Problem with given class_path 'anople_anomalib.AnoPLe':\n        Option 'backbon' is not accepted"
    assert brief(WRAPPED.format(problem)).startswith("AnoPLe has no argument 'backbon' (did you mean 'backbone'?)")


def test_other_messages_stay() -> None:
    assert brief("Configuration file not found.") == "Configuration file not found."


def test_suggestions_are_close() -> None:
    assert did_you_mean("brik", ["brick", "grass"]) == " (did you mean 'brick'?)"
    assert did_you_mean("xyz", ["brick", "grass"]) == ""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the command's module, in a process that looks like the command."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/anomalib", "train"])
    monkeypatch.setattr(sys, "excepthook", lambda *_: print("the usual traceback", file=sys.stderr))
    module = ModuleType("cli")
    module.ArgumentParser = ArgumentParser
    return module


def test_only_the_command_is_changed(stand_in: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sys.excepthook
    monkeypatch.setattr(sys, "argv", ["my_program.py"])
    assert not runs_from_command_line()
    shorten_errors(stand_in)
    assert (stand_in.ArgumentParser, sys.excepthook) == (ArgumentParser, usual)
    assert cli.ArgumentParser is ArgumentParser  # what the command's module has, and this process left alone


def test_tracebacks_on_request(stand_in: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    shorten_errors(stand_in)
    assert stand_in.ArgumentParser is ArgumentParser


@pytest.mark.parametrize(("command", "words", "code"), [("train", "Checkpoint: a.ckpt\n", 3), ("fewshot", "", None)])
def test_a_run_has_the_last_word_and_a_comparison_its_rows(
    stand_in: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    words: str,
    code: int | None,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/anomalib", command])
    monkeypatch.setattr(terminal, "_exit_codes", set())
    monkeypatch.setattr(terminal, "_last_words", [])

    def main() -> None:
        terminal.say_at_end("Checkpoint: a.ckpt")
        terminal.end_with(terminal.UNREADABLE)

    stand_in.main = main
    shorten_errors(stand_in)
    assert stand_in.main() == code
    assert capsys.readouterr().err == words


def test_the_parser_ends_in_the_message(stand_in: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    shorten_errors(stand_in)
    with pytest.raises(SystemExit) as error:
        stand_in.ArgumentParser().error(WRAPPED.format("k_shot must be 1 or more."))
    assert error.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: k_shot must be 1 or more."


def uncaught(error: Exception) -> None:
    """Hand an exception to the hook, as Python does at the end of a process."""
    try:
        raise error
    except Exception as caught:  # noqa: BLE001  # every kind
        sys.excepthook(type(caught), caught, caught.__traceback__)


def test_an_uncaught_error_of_the_user_is_one_message(stand_in: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    shorten_errors(stand_in)
    uncaught(ValueError(WRAPPED.format("There is no texture.")))
    assert capsys.readouterr().err.splitlines()[-1] == "error: There is no texture."
    try:
        shorten_errors(None)  # raised inside the package: a module without a parser
    except AttributeError as error:
        sys.excepthook(AttributeError, error, error.__traceback__)
    assert "the usual traceback" in capsys.readouterr().err  # a fault of ours, not of the user
    uncaught(ValueError("raised by somebody else"))
    assert "the usual traceback" in capsys.readouterr().err
