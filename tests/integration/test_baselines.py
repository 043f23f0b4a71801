# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The rivals by the real ``anomalib`` command, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.folders import write_category

COMMAND = "import sys; from anomalib.cli.cli import main; sys.argv = ['anomalib', *sys.argv[1:]]; main()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("SPADE", ["--model.backbone", "efficientnet-lite0"]),
        ("FastRecon", ["--model.backbone", "efficientnet-lite0"]),
        ("PromptAD", ["--model.backbone", "anople-tiny", "--trainer.max_epochs", "2"]),
    ],
)
def test_the_command_trains_and_tests(model: str, arguments: list[str], tmp_path: Path) -> None:
    root = write_category(tmp_path / "data")
    data = ["--data", "MVTecAD", "--data.root", root, "--data.category", "bottle", "--data.num_workers", "0"]
    rival = ["--model", model, *arguments, "--model.visualizer", "false"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    results = ["--default_root_dir", tmp_path / "results"]
    command = [sys.executable, "-c", COMMAND, "train", *rival, *data, *quiet, *results]
    process = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "image_AUROC" in process.stdout
    assert list((tmp_path / "results").rglob("*.ckpt"))
