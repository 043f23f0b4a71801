# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The ``anomalib`` command, killed in the middle of a training run and started again from its checkpoint."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anople_anomalib import AnoPLe
from helpers.folders import write_category
from helpers.miniature import MINIATURE
from helpers.training import make_datamodule, make_engine, read

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="copies the process for each run of the command"),
]

EPOCHS = 3
KILLS = {  # after the step of every epoch (counted from 0) that has a checkpoint before it, and in the last validation
    "SIGTERM_1": {"name": "SIGTERM", "epoch": 1},
    "SIGKILL_2": {"name": "SIGKILL", "epoch": 2},
    "SIGKILL_validation": {"name": "SIGKILL", "epoch": EPOCHS - 1, "hook": "on_validation_start"},
}
LATE = {"name": "SIGTERM", "epoch": EPOCHS - 1, "hook": "on_validation_start"}
"""Too late to matter: Lightning heeds it when all steps are done."""
Run = Callable[..., subprocess.CompletedProcess[str]]


def arguments(data: Path, results: Path, *more: str | Path) -> list[str]:
    given = {
        "--model": "AnoPLe",
        "--model.backbone": MINIATURE,
        "--model.pretrained": "random",
        "--model.training.epochs": EPOCHS,
        "--model.k_shot": 2,
        "--model.training.prompt_lr": 0.1,
        "--model.visualizer": "false",
        "--data": "MVTecAD",
        "--data.root": data,
        "--data.category": "bottle",
        "--data.num_workers": 0,
        "--default_root_dir": results,
        "--trainer.accelerator": "cpu",
    }
    return ["train", *(str(part) for pair in given.items() for part in pair), *map(str, more)]


def checkpoint(results: Path, version: int) -> Path:
    return results / "AnoPLe" / "MVTecAD" / "bottle" / f"v{version}" / "weights" / "lightning" / "model.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_python: Run, repository: Path) -> tuple[Path, dict[str, int]]:
    """Folder of an uninterrupted run and of all interrupted and resumed ones, and how each run ended."""
    root = tmp_path_factory.mktemp("killed")
    data = write_category(root / "data")
    runs: dict[str, dict[str, Any]] = {
        "whole": {"arguments": arguments(data, root / "whole")},
        "late": {"arguments": arguments(data, root / "late"), **LATE},
    }
    for name, kill in KILLS.items():
        runs[name] = {"arguments": arguments(data, root / name), **kill}
        resumed = arguments(data, root / name, "--ckpt_path", checkpoint(root / name, 0))
        runs[f"{name}_resumed"] = {"arguments": resumed}
    process = run_python("-m", "helpers.killing", *map(json.dumps, runs.values()), path=repository / "tests", cwd=root)
    assert process.returncode == 0, process.stderr
    codes = json.loads(process.stdout.splitlines()[-1])
    (root / "output.txt").write_text(process.stdout + process.stderr)
    return root, dict(zip(runs, codes, strict=True))


def test_every_signal_struck_and_every_resumed_command_succeeded(trained: tuple[Path, dict[str, int]]) -> None:
    root, codes = trained
    for name, kill in KILLS.items():
        expected = 0 if kill["name"] == "SIGTERM" else -signal.SIGKILL  # Lightning ends at once, without an error
        assert codes[name] == expected, (root / "output.txt").read_text()
        assert codes[f"{name}_resumed"] == 0, (root / "output.txt").read_text()
    assert codes["whole"] == codes["late"] == 0


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_ends_as_if_nothing_had_happened(trained: tuple[Path, dict[str, int]], name: str) -> None:
    root, _ = trained
    interrupted = read(checkpoint(root / name, 0))
    assert not interrupted["state_dict"]["model.is_fitted"]
    assert interrupted["global_step"] == 2 * KILLS[name]["epoch"]  # two shots: what came before the epoch is kept
    whole, resumed = (read(checkpoint(root / folder, v)) for folder, v in (("whole", 0), (name, 1)))
    assert whole["global_step"] == resumed["global_step"] == 2 * EPOCHS
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for key, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][key], value), key


def test_a_termination_in_the_last_validation_leaves_the_whole_result(trained: tuple[Path, dict[str, int]]) -> None:
    root, _ = trained
    whole, late = (read(checkpoint(root / folder, 0))["state_dict"] for folder in ("whole", "late"))
    assert whole["model.is_fitted"]
    for key, value in whole.items():
        assert torch.equal(late[key], value), key


def test_a_killed_run_predicts_as_if_nothing_had_happened(trained: tuple[Path, dict[str, int]]) -> None:
    root, _ = trained
    predictions = []
    for path in (checkpoint(root / "whole", 0), checkpoint(root / "SIGKILL_2", 1)):
        model = AnoPLe.load_from_checkpoint(path, visualizer=False)
        predictions.append(make_engine(root).predict(model, datamodule=make_datamodule(root / "data")))
    for batch, other in zip(*predictions, strict=True):
        assert torch.equal(batch.pred_score, other.pred_score)
        assert torch.equal(batch.anomaly_map, other.anomaly_map)


def test_no_unfinished_file_stands_under_a_final_name(trained: tuple[Path, dict[str, int]]) -> None:
    root, _ = trained
    for path in root.rglob("*.ckpt"):
        read(path)
    assert len(list(root.rglob("*.ckpt"))) == 2 + 2 * len(KILLS)
