# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The baselines by anomalib's command line."""

from pathlib import Path

import pytest

from helpers.command_line import anomalib, data_arguments
from helpers.folders import write_category

pytestmark = pytest.mark.usefixtures("_quiet_process")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("SPADE", ["--model.backbone", "efficientnet-lite0"]),
        ("FastRecon", ["--model.backbone", "efficientnet-lite0"]),
        ("PromptAD", ["--model.backbone", "anople-tiny", "--trainer.max_epochs", "1"]),
    ],
)
def test_the_command_trains_and_tests(
    model: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_category(tmp_path / "data")
    baseline = ["--model", model, *arguments, "--model.visualizer", "false"]
    anomalib("train", *baseline, *data_arguments(root), results=tmp_path / "results")
    assert "image_AUROC" in capsys.readouterr().out
    assert list((tmp_path / "results").rglob("*.ckpt"))
