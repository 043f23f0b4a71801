# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The baselines by anomalib's command line."""

from pathlib import Path

import pytest
import yaml

from anople_anomalib.commands.main import main
from anople_anomalib.data.sample_textures import CACHE_VARIABLE
from anople_anomalib.pipeline.results import ResultsTable
from helpers.command_line import anomalib, data_arguments
from helpers.folders import write_category

pytestmark = pytest.mark.usefixtures("_quiet_process")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("SPADE", ["--model.backbone", "efficientnet-lite0"]),
        ("FastRecon", ["--model.backbone", "efficientnet-lite0"]),
        ("AnomalyGPT", ["--model.backbone", "anople-tiny"]),
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


@pytest.mark.slow
def test_a_comparison_gives_them_other_data_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    for category in ("bottle", "cable"):
        root = write_category(tmp_path / "data", category, grain=category)
    datamodule = {"class_path": "MVTecAD", "init_args": {"root": str(root), "num_workers": 0}}
    clip = {"backbone": "anople-tiny"}
    names = {"InCTRL": {"batch_size": 4, **clip}, "AnomalyGPT": clip}  # RegAD: test_fewshot_pipeline.py
    models = [
        {
            "class_path": name,
            "auxiliary": {"datamodule": datamodule, "categories": ["cable"]},
            "init_args": {"epochs": 1, **arguments},
        }
        for name, arguments in names.items()
    ]
    data = {"class_path": "FewShot", "init_args": {"datamodule": datamodule, "categories": ["bottle"], "k_shot": 2}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"accelerator": "cpu", "fewshot": {"model": {"grid": models}, "data": data}}))
    main(["compare", "--config", str(config), "--folder", "results"])
    inctrl, anomalygpt = ResultsTable("results").rows()
    assert (inctrl["error"], anomalygpt["error"]) == ("", "")
    assert inctrl["transfer"] == "MVTecAD: cable"
    assert anomalygpt["transfer"] == "MVTecAD: cable (simulated anomalies)"
    for row in (inctrl, anomalygpt):
        assert 0 <= float(row["image_AUROC"]) <= 1
        assert float(row["preparation_seconds"]) > 0
    assert inctrl["pixel_AUROC"] == inctrl["pixel_AUPRO"] == ""  # it has no map
    assert float(anomalygpt["pixel_AUROC"]) > 0.5
