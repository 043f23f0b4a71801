# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The shipped configurations, read by the real command line."""

from inspect import signature
from pathlib import Path

import pytest
import yaml

from anople_anomalib import AnoPLe, baselines
from anople_anomalib.pipeline.settings import expand_jobs
from anople_anomalib.presets import resolve
from helpers.command_line import Parser

CONFIGS = Path(__file__).parents[2] / "configs"
RUNS = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("model/*.yaml")])
DATA = sorted(CONFIGS.glob("data/*.yaml"))
COMPARISONS = sorted([*CONFIGS.glob("benchmark/*.yaml"), *CONFIGS.glob("ablation/*.yaml")])
BASELINES = {f"{name.lower()}": f"anople_anomalib.baselines.{name}" for name in baselines.__all__}


def identify(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def test_every_shipped_file_is_read_here() -> None:
    assert set(CONFIGS.rglob("*.*")) == {*RUNS, *DATA, *COMPARISONS}


@pytest.mark.parametrize("path", RUNS, ids=identify)
def test_models_and_whole_runs(path: Path) -> None:
    data = () if path.name == "quickstart.yaml" else ("--data", "MVTecAD")
    config = Parser(["train", "--config", str(path), *data], run=False).config.train
    baseline = path.stem.removesuffix("_g")
    assert config.model.class_path == BASELINES.get(baseline, "anople_anomalib.AnoPLe")
    assert config.model.init_args.get("k_shot", 1) == 1
    assert "data" in config


@pytest.mark.parametrize("path", DATA, ids=identify)
@pytest.mark.parametrize("command", ["fit", "validate", "test", "train"])
def test_data(path: Path, command: str) -> None:
    config = Parser([command, "--model", "AnoPLe", "--data", str(path)], run=False).config[command]
    assert config.data.class_path in path.read_text(encoding="utf-8")
    assert config.data.init_args


@pytest.mark.parametrize("path", COMPARISONS, ids=identify)
def test_comparisons(path: Path) -> None:
    config = Parser(["fewshot", "--config", str(path)], run=False).config
    assert Path(str(config.fewshot.config)).resolve() == path


@pytest.mark.parametrize("path", COMPARISONS, ids=identify)
def test_models_of_comparisons_are_given_options_that_they_have(path: Path) -> None:
    section = yaml.safe_load(path.read_text(encoding="utf-8"))["fewshot"]
    section.pop("published_tables", None)  # of the report
    jobs = expand_jobs(section, accelerator="cpu")
    ours = [job.model["init_args"] for job in jobs if job.model["class_path"] == "AnoPLe"]
    assert ours
    for given in ours:
        assert set(given) <= set(signature(AnoPLe).parameters)
        resolve(**{name: value for name, value in given.items() if name in signature(resolve).parameters})
