# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""``anomalib fewshot`` from the configuration to the report, with models of anomalib on tiny images."""

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from anomalib.cli.pipelines import PIPELINE_REGISTRY
from jsonargparse import Namespace

from anople_anomalib.commands.main import main
from anople_anomalib.data.sampling import read_sample_list
from anople_anomalib.pipeline import FewShotPipeline
from anople_anomalib.pipeline.results import ResultsTable
from helpers.folders import write_category

CONFIGS = Path(__file__).parents[2] / "configs"
CHANCE = 0.5  # image AUROC of a coin
SMALL = {"backbone": "resnet18", "layers": ["layer3"], "pre_trained": False}
PADIM = {"class_path": "Padim", "init_args": {**SMALL, "n_features": 4}}
PATCHCORE = {"class_path": "Patchcore", "init_args": {**SMALL, "coreset_sampling_ratio": 0.5}}
BROKEN = {"class_path": "Padim", "init_args": {"shots": 1}, "label": "Broken"}
CATEGORIES = ["bottle", "cable"]
METRICS = ("image_AUROC", "image_AUPR", "image_F1Max", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Max")
COSTS = ("fit_seconds", "test_seconds", "images_per_second", "checkpoint_mb")
SLOW_JOBS = """
import sys, time
from jsonargparse import Namespace
from anople_anomalib.pipeline.few_shot_pipeline import FewShotPipeline
from anople_anomalib.pipeline.job import FewShotJob

def measure(job, task_id):
    time.sleep(600 * job.settings.seed)  # the job with seed 0 ends at once, the next one does not
    return {}

FewShotJob._measure = measure
FewShotPipeline().run(Namespace(config=sys.argv[1], folder=sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Anomalib's log goes to the working folder; a job seeds everything; tiny images need no second thread."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # which Lightning sets
        monkeypatch.setenv(name, "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """A ``FewShot`` over two tiny categories."""
    for category in CATEGORIES:
        write_category(tmp_path / "data", category)
    mvtec = {"class_path": "MVTecAD", "init_args": {"root": "data", "num_workers": 0}}
    return {"class_path": "FewShot", "init_args": {"datamodule": mvtec, "categories": CATEGORIES, "k_shot": 2}}


def run(section: dict[str, Any], folder: str = "results", **top_level: object) -> list[dict[str, str]]:
    """Run a comparison on the CPU and return its rows."""
    config = {"accelerator": "cpu", **top_level, "fewshot": section}
    Path("comparison.yaml").write_text(yaml.safe_dump(config))
    FewShotPipeline().run(Namespace(config="comparison.yaml", folder=folder))
    return ResultsTable(folder).rows()


def test_anomalib_knows_the_pipeline() -> None:
    assert PIPELINE_REGISTRY["fewshot"] is FewShotPipeline


def test_mixed_models_give_one_row_each(data: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    judging = {**PATCHCORE, "init_args": {**PATCHCORE["init_args"], "post_processor": True}}
    rows = run({"seed": 1, "model": {"grid": [PADIM, BROKEN, judging]}, "data": data})

    assert [row["model"] for row in rows] == ["Padim", "Broken", "Patchcore"]
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert "shots" in rows[1]["error"]
    for row in (rows[0], rows[2]):
        assert (row["setting"], row["dataset"], row["categories"]) == ("multi-class", "MVTecAD", "bottle;cable")
        assert (row["k_shot"], row["seed"], row["accelerator"]) == ("2", "1", "cpu")
        for metric in METRICS:
            mean = sum(float(row[f"{category}/{metric}"]) for category in CATEGORIES) / 2
            assert float(row[metric]) == pytest.approx(mean, abs=1e-5)
            assert 0 <= mean <= 1
        assert all(float(row[cost]) > 0 for cost in COSTS)
        assert row["trainable_parameters"] == "0"
    assert rows[0]["verdicts"] == "", "it has no thresholds"
    verdicts = json.loads(rows[2]["verdicts"])
    assert verdicts["fitted_to_these"], "anomalib's default for MVTec AD"
    counted = {name: {kind: n for kind, (_, n) in own.items()} for name, own in verdicts["categories"].items()}
    assert counted == {name: {"good": 2, "hole": 2} for name in CATEGORIES}
    output = capsys.readouterr().out
    assert "[2/3] Broken on MVTecAD bottle, cable" in output
    assert "Few-shot comparison" in output

    samples = [read_sample_list(path) for path in Path("results/samples").iterdir()]
    assert len(samples) == 2
    assert samples[0] == samples[1]
    assert {category: len(names) for category, names in samples[0].items()} == dict.fromkeys(CATEGORIES, 2)


def test_the_shipped_comparison_runs_without_a_download(
    few_textures: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``configs/benchmark/sample_textures.yaml``, with one of all its choices, one epoch and few images."""
    config = yaml.safe_load((CONFIGS / "benchmark" / "sample_textures.yaml").read_text(encoding="utf-8"))
    section = config["fewshot"]
    section["seed"] = section["seed"]["grid"][0]
    section["data"]["init_args"] |= {"k_shot": 1, "categories": "brick"}
    section["model"]["grid"][0]["init_args"] |= {"training": {"epochs": 1}, "memory": {"turns": "none"}}
    section["model"]["grid"] = [model for model in section["model"]["grid"] if model["class_path"] != "Padim"]
    monkeypatch.setenv("ANOPLE_CACHE", str(few_textures))
    with caplog.at_level(logging.INFO, "anople_anomalib"):
        rows = {row["model"]: row for row in run(section)}
    assert [row["error"] for row in rows.values()] == ["", ""]
    said = {record.name for record in caplog.records if record.levelno < logging.WARNING}
    assert not {name for name in said if name.startswith(("anople_anomalib.training", "anople_anomalib.deployment"))}
    anople, patchcore = rows["AnoPLe"], rows["Patchcore, random weights"]
    assert int(anople["trainable_parameters"]) > 0 == int(patchcore["trainable_parameters"])
    assert float(anople["image_AUROC"]) > CHANCE
    assert read_sample_list(f"results/samples/{anople['job_id']}.yaml") == read_sample_list(
        f"results/samples/{patchcore['job_id']}.yaml"
    )


def test_what_is_done_is_skipped_and_what_failed_is_tried_again(data: dict[str, Any], tmp_path: Path) -> None:
    one_class = {**data["init_args"], "categories": "bottle"}
    section = {"model": PADIM, "data": {"class_path": "FewShot", "init_args": one_class}, "seed": {"grid": [0, 1]}}
    hidden = (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert [row["status"] for row in run(section)] == ["failed", "failed"]
    hidden.rename(tmp_path / "data")
    first = run({**section, "seed": 0})
    assert sorted(row["status"] for row in first) == ["failed", "ok"]
    second = run(section)
    assert [row["status"] for row in second] == ["ok", "ok"]
    assert [row for row in first if row["status"] == "ok"] == [row for row in second if row["seed"] == "0"]
    assert second[0]["setting"] == "one-class"

    assert main(["report", "results"]) == 0
    report = Path("results/report/report.md").read_text(encoding="utf-8")
    assert "2 jobs succeeded, 0 failed, 0 did not run." in report
    assert "measured, n=2" in report
    assert "Missing categories: MVTecAD, one-class: cable, capsule," in report


def test_the_same_job_gives_the_same_metrics(data: dict[str, Any]) -> None:
    section = {"model": PATCHCORE, "data": data, "seed": 5}
    one, two = run(section, "one")[0], run(section, "two")[0]
    assert one["job_id"] == two["job_id"]
    assert [one[metric] for metric in METRICS] == [two[metric] for metric in METRICS]


def test_a_killed_run_loses_the_running_job_only(data: dict[str, Any]) -> None:
    config = {"accelerator": "cpu", "fewshot": {"seed": {"grid": [0, 1, 2]}, "model": PADIM, "data": data}}
    Path("comparison.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen([sys.executable, "-c", SLOW_JOBS, "comparison.yaml", "results"], start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not ResultsTable("results").rows() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [(row["seed"], row["status"]) for row in ResultsTable("results").rows()] == [("0", "ok")]

    rows = run({**config["fewshot"], "seed": {"grid": [0, 1]}})
    assert [(row["seed"], row["status"]) for row in rows] == [("0", "ok"), ("1", "ok")]
    assert rows[0]["fit_seconds"] == ""  # it was not run again
    assert float(rows[1]["fit_seconds"]) > 0


def test_two_processes_share_the_jobs(data: dict[str, Any]) -> None:
    rows = run({"model": {"grid": [PADIM, BROKEN]}, "data": data}, processes=2)
    assert sorted((row["model"], row["status"]) for row in rows) == [("Broken", "failed"), ("Padim", "ok")]


def test_verdicts_are_those_of_the_test_also_beside_tests_under_corruptions(data: dict[str, Any]) -> None:
    model = {"class_path": "Padim", "init_args": {**PADIM["init_args"], "post_processor": True}}
    (plain,) = run({"model": model, "data": data}, "plain")
    (corrupted,) = run({"model": model, "data": data, "robustness": ["lamp"]}, "corrupted")
    assert plain["verdicts"] == corrupted["verdicts"] != ""
    assert "image_AUROC@lamp5" in corrupted


def test_a_method_learns_from_other_data_first_and_the_report_has_statistics(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RegAD by ``anople compare`` on another category, refused while that holds images of the test."""
    monkeypatch.setenv("ANOPLE_CACHE", str(tmp_path / "cache"))
    small = {"pre_trained": False, "image_size": 32, "epochs": 1, "training_seed": 0}
    auxiliary = {"datamodule": data["init_args"]["datamodule"], "categories": ["cable"]}
    regad = {"class_path": "RegAD", "init_args": small, "auxiliary": auxiliary}
    one_class = {"class_path": "FewShot", "init_args": {**data["init_args"], "categories": "bottle"}}
    section = {"model": {"grid": [regad, PADIM]}, "data": one_class, "seed": {"grid": [0, 1]}, "robustness": ["blur"]}
    Path("transfer.yaml").write_text(yaml.safe_dump({"accelerator": "cpu", "fewshot": section}))
    command = ["compare", "--config", "transfer.yaml", "--folder", "results"]
    main(command)
    leaked = [row for row in ResultsTable("results").rows() if row["model"] == "RegAD"]
    assert [row["status"] for row in leaked] == ["failed", "failed"]
    assert "of the data that are tested: take the category 'cable' out" in leaked[0]["error"]

    write_category(tmp_path / "data", "cable", grain="cable")
    assert main(command) == 0
    rows = {(row["model"], row["seed"]): row for row in ResultsTable("results").rows()}
    first, second = rows["RegAD", "0"], rows["RegAD", "1"]
    assert first["transfer"] == "MVTecAD: cable (random weights)"
    assert int(first["trainable_parameters"]) > 1000
    assert first["preparation_seconds"] == second["preparation_seconds"] != ""  # it has learned once
    assert rows["Padim", "0"]["transfer"] == ""

    assert {f"{metric}@blur{step}" for metric in ("image_AUROC", "pixel_AUROC") for step in range(1, 6)} < set(first)
    kept = pd.read_parquet(f"results/scores/{first['job_id']}.parquet")
    assert sorted(kept["defect"]) == ["good", "good", "hole", "hole"]
    assert kept["threshold"].notna().all()  # of the good part that is no shot
    assert main(["report", "results"]) == 0
    report = Path("results/report/report.md").read_text(encoding="utf-8")
    assert all(
        text in report
        for text in ("RegAD (transfer)", "95 % interval", "by kind of defect", "DeLong's test", "under corruptions")
    )
