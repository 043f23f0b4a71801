# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Wrong input at the command line: one error message with the value, before any training run."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

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
        (["--model.coupling", "both"], "coupling must be one of bidirectional, text_to_image,"),
        (["--model.alignment", "sum"], "alignment must be one of weighted_sum, states, mean, none, got 'sum'."),
        (["--model.k_shot", "0"], "k_shot must be an integer, 1 or more, or None for all images, got 0."),
        (["--model.k_shot", "9"], "category 'bottle' has 8 normal training images; choose at most that many."),
        (["--model.prompt_depth", "4"], "prompt_depth must be between 1 and 3,"),
        (["--model.memory_layers", "[4]"], "memory_layers must be numbers between 1 and 3,"),
        (["--model.class_names", ""], "class_names must be one or more non-empty names, got ''."),
        (["--model.text_context_length", "-1"], "text_context_length must be an integer, 0 or more, got -1."),
        (["--model.text_context_length", "80"], "A text of 4 tokens and 83 prompts exceed"),
        (["--model.prompt_lr", "-1"], "prompt_lr must be a finite number, 0 or more, got -1.0."),
        (["--model.epochs", "-3"], "epochs must be an integer, 1 or more, got -3."),
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
        (["--model.decoder_lr", "nan"], ['"decoder_lr"', "nan"]),
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
    with pytest.raises(ValueError, match="The training set of category 'bottle' has no normal images"):
        anomalib("fit", *MODEL, *data_arguments(root), results=tmp_path)


COMMAND = """
import json, os, sys
inputs, folder = json.loads(sys.argv[1]), sys.argv[2]
sys.argv = ["/usr/bin/anomalib", "predict", "--model", "AnoPLe"]
import anople_anomalib
from anomalib.cli import cli
for number, arguments in enumerate(inputs):
    if (copy := os.fork()) == 0:  # a copy of the process for each run of the command: imports are done once
        said = open(f"{folder}/{number}.txt", "w")
        os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
        sys.argv[1:] = [*arguments, "--default_root_dir", folder]
        try:
            code = cli.main()
        except SystemExit as error:
            code = error.code
        except Exception:
            sys.excepthook(*sys.exc_info())  # as Python does at the end
            code = 1
        sys.stderr.flush()
        os._exit(code)  # without the exit functions of the copied process
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))  # OpenVINO's telemetry starts processes, too
"""
TINY = ["--model", "AnoPLe", "--model.backbone", "anople-tiny"]
TEXTURES = ["--data", "SampleTextures"]
LAST_LINES = [
    (["train", "--model", "AnoPLe", "--model.backbone", "anople-tini", *TEXTURES], "(did you mean 'anople-tiny'?)."),
    (
        ["train", *TINY, *TEXTURES, "--data.category", "brik"],
        "error: SampleTextures has no category 'brik' (did you mean 'brick'?)",
    ),
    (
        ["train", *TINY, "--data", "MVTecAD", "--data.root", "{images}", "--data.category", "botle"],
        "are bottle (did you mean 'bottle'?).",
    ),
    (
        ["train", *TINY, "--data", "FewShot", "--data.datamodule", "MVTecAD", "--data.categories", "[botle]"],
        "error: MVTecAD has no category 'botle' (did you mean 'bottle'?)",
    ),
    (
        ["train", "--model", "AnoPLe", "--model.pretrained", "/none.pt", *TEXTURES],
        "error: The weights file '/none.pt' for ViT-B-16-plus-240 does not exist: check",
    ),
    (["train", "--model", "AnoPl", *TEXTURES], "error: There is no model 'AnoPl' (did you mean 'AnoPLe'?): give"),
    (
        ["train", *TINY, "--model.kshot", "1", *TEXTURES],
        "error: AnoPLe has no argument 'kshot' (did you mean 'k_shot'?): it takes",
    ),
    (
        ["predict", "--model", "AnoPLe", "--data", "x", "--ckpt_path", "/none.ckpt"],
        "error: There is no checkpoint '/none.ckpt': check",
    ),
]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="copies the process for each run of the command")
def test_the_last_line_of_the_command_is_the_message(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Behind a proxy that says nothing: what would be downloaded is given up."""
    inputs = [[argument.format(images=images) for argument in arguments] for arguments, _ in LAST_LINES]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(scheme, f"http://127.0.0.1:{silent.getsockname()[1]}")
        process = run_python("-c", COMMAND, json.dumps(inputs), tmp_path)
    assert process.returncode == 0, process.stderr
    assert all(code in {"1", "2"} for code in process.stdout.split()), process.stdout
    for number, (_, message) in enumerate(LAST_LINES):
        said = (tmp_path / f"{number}.txt").read_text().strip()
        assert message in said.splitlines()[-1], said
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 8, said
