# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Wrong input at the command line: one error message with the value, before any training run."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from helpers.command_line import MODEL, anomalib, data_arguments
from helpers.folders import write_category

pytestmark = pytest.mark.usefixtures("_quiet_process", "_no_download")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.backbone", "ViT-X"], "backbone must be 'anople-tiny' or a CLIP of open_clip (ViT-B-16,"),
        (["--model.backbone", "RN50"], "AnoPLe does not fit the backbone RN50: its visual tower is a ResNet"),
        (["--model.pretrained", "best"], "got 'best'."),
        (["--model.pretrained", "/none.pt"], "The weights file '/none.pt' for ViT-miniature does not exist"),
        (["--model.prompts.coupling", "both"], "prompts.coupling must be one of bidirectional, text_to_image,"),
        (
            ["--model.training.alignment", "sum"],
            "training.alignment must be one of weighted_sum, mean, none,",
        ),
        (["--model.k_shot", "0"], "k_shot must be an integer, 1 or more, or None for all images, got 0."),
        (["--model.k_shot", "9"], "category 'bottle' has 8 normal training images; choose at most that many."),
        (["--model.prompts.depth", "4"], "prompts.depth must be between 1 and 3,"),
        (["--model.memory.layers", "[4]"], "memory.layers must be numbers between 1 and 3,"),
        (["--model.class_names", ""], "class_names must be one or more non-empty names, got ''."),
        (
            ["--model.prompts.text_context_length", "-1"],
            "text_context_length must be an integer, 0 or more, got -1.",
        ),
        (["--model.prompts.text_context_length", "80"], "A text of 4 tokens and 83 prompts exceed"),
        (["--model.training.prompt_lr", "-1"], "training.prompt_lr must be a finite number, 0 or more, got -1.0."),
        (["--model.training.epochs", "-3"], "training.epochs must be an integer, 1 or more, got -3."),
        (["--data.root", "/no/data"], "MVTecAD finds no data in '/no/data/bottle'"),
        (["--data.category", "cable"], "are bottle."),
    ],
)
def test_a_clear_error_message(images: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        anomalib("fit", *MODEL, *data_arguments(images), *arguments, results=tmp_path)
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.k_shot", "many"], ['"k_shot"', "many"]),
        (["--model.k_shots", "1"], ["Option 'k_shots' is not accepted"]),
        (["--model.training.decoder_lr", "nan"], ['"decoder_lr"', "nan"]),
    ],
)
def test_the_parser_says_what_has_the_wrong_type(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit):
        anomalib("fit", *MODEL, *data_arguments(images), *arguments, results=tmp_path)
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_a_training_set_without_normal_images(tmp_path: Path) -> None:
    root = write_category(tmp_path / "data")
    shutil.rmtree(root / "bottle" / "train")
    message = "The training set of category 'bottle' has no normal images"
    if int(pd.__version__.partition(".")[0]) > 2:  # with which an empty set may be one that anomalib cannot read
        message = "anomalib finds no training images of MVTecAD. If they are there, it cannot read it with pandas"
    with pytest.raises(ValueError, match=re.escape(message)):
        anomalib("fit", *MODEL, *data_arguments(root), results=tmp_path)
