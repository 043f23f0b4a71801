# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint's arguments on the command line."""

from inspect import signature

import pytest

from anople_anomalib import AnoPLe
from anople_anomalib.training.checkpoint_arguments import with_arguments_of_checkpoint
from helpers.folders import write_category
from helpers.miniature import MINIATURE
from helpers.training import make_datamodule, make_engine, make_model

DEFAULTS = {name: each.default for name, each in signature(AnoPLe).parameters.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a miniature with three shots."""
    folder = tmp_path_factory.mktemp("training")
    engine = make_engine(folder)
    engine.fit(make_model(k_shot=3, epochs=1), datamodule=make_datamodule(write_category(folder / "data")))
    return str(engine.best_model_path)


def added(*arguments: str) -> list[str]:
    """What is added to the arguments of a command."""
    found = with_arguments_of_checkpoint(arguments, ["AnoPLe"], DEFAULTS)
    assert found[: len(arguments)] == list(arguments)
    return found[len(arguments) :]


def test_what_differs_from_the_default_is_added(checkpoint: str) -> None:
    found = added("predict", "--model", "AnoPLe", "--data", "x", "--ckpt_path", checkpoint)
    assert {f"--model.backbone={MINIATURE}", "--model.pretrained=random", "--model.k_shot=3"} <= set(found)
    assert not any(option.startswith(("--model.seed=", "--model.memory_layers=")) for option in found)


def test_what_was_given_stays(checkpoint: str) -> None:
    found = added("test", "--model", "AnoPLe", "--model.backbone", "other", f"--ckpt_path={checkpoint}")
    assert not any(option.startswith("--model.backbone=") for option in found)
    assert "--model.k_shot=3" in found


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--model", "AnoPLe", "--ckpt_path", "{}"],
        ["predict", "--model", "Padim", "--ckpt_path", "{}"],
        ["predict", "--config", "a.yaml", "--ckpt_path", "{}"],
        [],
    ],
)
def test_other_commands_are_left_alone(checkpoint: str, arguments: list[str]) -> None:
    assert added(*(argument.format(checkpoint) for argument in arguments)) == []


def test_a_checkpoint_that_cannot_be_read_is_named_before_any_backbone(checkpoint: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint '.*\.missing'"):
        added("predict", "--model", "AnoPLe", "--ckpt_path", f"{checkpoint}.missing")
    with pytest.raises(ValueError, match="test_command_line"):
        added("predict", "--model", "AnoPLe", "--ckpt_path", __file__)
