# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The comparison pipeline: grids, result rows, building of jobs, checks of a configuration."""

import csv
import json
import logging
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anomalib.data
import anomalib.models
import pytest
import torch
import yaml
from anomalib.pipelines.components.runners import ParallelRunner, SerialRunner
from jsonargparse import Namespace

from anople_anomalib.anople import AnoPLe
from anople_anomalib.metrics.per_category import PerCategoryEvaluator
from anople_anomalib.pipeline import FewShotPipeline
from anople_anomalib.pipeline.building import build_data, build_model, describe, instantiated
from anople_anomalib.pipeline.few_shot_pipeline import show
from anople_anomalib.pipeline.job import FewShotJob, FewShotJobGenerator
from anople_anomalib.pipeline.measures import Clock, PeakMemory, trained_parameters, warm_up
from anople_anomalib.pipeline.results import ResultsTable, read_plans, write_plan
from anople_anomalib.pipeline.settings import JobSettings, expand_jobs
from anople_anomalib.report.cells import load_published
from helpers.folders import write_category

CONFIGS = Path(__file__).parents[3] / "configs"
COMPARISONS = sorted([*CONFIGS.glob("benchmark/*.yaml"), *CONFIGS.glob("ablation/*.yaml")])
SECTION = {"seed": 3, "model": {"class_path": "Padim"}, "data": {"class_path": "MVTecAD"}}


def settings(model: object = "Padim", data: object = "MVTecAD", seed: int = 3) -> JobSettings:
    return expand_jobs({"seed": seed, "model": model, "data": data}, "cpu")[0]


def row(job_id: str = "a", status: str = "ok", **others: object) -> dict[str, Any]:
    return {"status": status, "model": "Padim", "dataset": "MVTecAD", "job_id": job_id, **others}


class TestGrids:
    def test_grids_are_combined_in_order(self) -> None:
        jobs = expand_jobs({**SECTION, "seed": {"grid": [0, 1]}, "model": {"grid": ["Padim", "Patchcore"]}}, "cpu")
        assert [(job.seed, job.label) for job in jobs] == [
            (0, "Padim"),
            (0, "Patchcore"),
            (1, "Padim"),
            (1, "Patchcore"),
        ]

    def test_a_model_of_a_grid_may_have_a_grid_of_arguments(self) -> None:
        model = {"grid": [{"class_path": "Padim", "init_args": {"n_features": {"grid": [5, 8]}}}, "Patchcore"]}
        jobs = expand_jobs({**SECTION, "model": model}, "cpu")
        assert [job.model["init_args"] for job in jobs] == [{"n_features": 5}, {"n_features": 8}, {}]

    def test_a_category_named_grid_is_only_a_category(self) -> None:
        data = {
            "class_path": "FewShot",
            "init_args": {"datamodule": "MVTecAD", "categories": {"grid": ["grid", "tile"]}},
        }
        assert [job.data["init_args"]["categories"] for job in expand_jobs({**SECTION, "data": data}, "cpu")] == [
            "grid",
            "tile",
        ]

    def test_runs_are_completed_by_the_keys_beside_them(self) -> None:
        runs = [{"model": "Padim"}, {"model": "Patchcore", "seed": 7}]
        jobs = expand_jobs({"seed": 3, "data": "MVTecAD", "runs": runs}, "cpu")
        assert [(job.label, job.seed) for job in jobs] == [("Padim", 3), ("Patchcore", 7)]

    def test_the_same_job_comes_once(self) -> None:
        assert len(expand_jobs({**SECTION, "seed": {"grid": [1, 1]}}, "cpu")) == 1

    def test_trainer_arguments_of_a_model_win(self) -> None:
        section = {**SECTION, "trainer": {"max_epochs": 1, "precision": 32}}
        section["model"] = {"class_path": "FoundAD", "trainer": {"max_epochs": 5}}
        assert expand_jobs(section, "cpu")[0].trainer == {"max_epochs": 5, "precision": 32}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model": None}, "model is missing"),
            ({"models": "Padim"}, "Unknown key models"),
            ({"runs": {"model": "Padim"}}, "runs must be a list"),
            ({"seed": -1}, "seed must be"),
            ({"seed": "one"}, "'one'"),
            ({"model": {"class_path": "Padim", "k_shot": 1}}, "Unknown key k_shot in model"),
            ({"seed": {"grid": 3}}, "A grid must be a list of values"),
            ({"data": ["MVTecAD"]}, r"data must be a class name .* \['MVTecAD'\]"),
        ],
    )
    def test_a_wrong_section_is_a_clear_error(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            expand_jobs({**SECTION, **change}, "cpu")


class TestIdentity:
    def test_it_is_the_same_in_every_process(self) -> None:
        assert (
            settings({"class_path": "Padim", "init_args": {"n_features": 5, "backbone": "resnet18"}}).job_id
            == "73f9666db4a1"
        )

    def test_the_order_of_arguments_and_the_label_do_not_matter(self) -> None:
        one = settings({"class_path": "Padim", "init_args": {"n_features": 5, "backbone": "resnet18"}, "label": "x"})
        two = settings({"class_path": "Padim", "init_args": {"backbone": "resnet18", "n_features": 5}})
        assert one.job_id == two.job_id

    def test_every_setting_matters(self) -> None:
        ids = {settings().job_id, settings("Patchcore").job_id, settings(data="Visa").job_id, settings(seed=4).job_id}
        ids.add(expand_jobs(SECTION, "cuda")[0].job_id)
        assert len(ids) == 5

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            ("MVTecAD", ("MVTecAD", "", None)),
            ({"class_path": "MVTecAD", "init_args": {"category": "tile"}}, ("MVTecAD", "tile", None)),
            ({"class_path": "Folder", "init_args": {"name": "screws"}}, ("screws", "", None)),
            (
                {
                    "class_path": "FewShot",
                    "init_args": {"datamodule": "Visa", "categories": ["pcb1", "pcb2"], "k_shot": 2},
                },
                ("Visa", "pcb1;pcb2", 2),
            ),
            (
                {"class_path": "FewShot", "init_args": {"datamodule": {"class_path": "anomalib.data.Visa"}}},
                ("Visa", "", None),
            ),
        ],
    )
    def test_a_job_describes_its_data(self, data: object, expected: tuple[Any, ...]) -> None:
        row = settings(data=data).describe()
        assert (row["dataset"], row["categories"], row["k_shot"]) == expected


class TestResultsTable:
    def test_rows_with_other_metrics_widen_the_header(self, tmp_path: Path) -> None:
        table = ResultsTable(tmp_path)
        table.add(row("a", image_AUROC=0.5))
        table.add(row("b", pixel_AUROC=0.25, error=""))
        with table.path.open(newline="") as file:
            header = next(csv.reader(file))
        assert header.index("seed") < header.index("image_AUROC") < header.index("pixel_AUROC") < header.index("error")
        assert [(old["image_AUROC"], old["pixel_AUROC"]) for old in table.rows()] == [("0.5", ""), ("", "0.25")]

    def test_a_second_attempt_replaces_the_failed_one(self, tmp_path: Path) -> None:
        table = ResultsTable(tmp_path)
        table.add(row("a", "failed", error="out of\n memory"))
        assert (table.done(), table.rows()[0]["error"]) == (set(), "out of memory")
        table.add(row("a"))
        assert (table.done(), len(table.rows())) == ({"a"}, 1)

    def test_a_write_that_is_cut_off_leaves_the_old_table(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = ResultsTable(tmp_path)
        table.add(row("a"))

        def cut_off(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", cut_off)
            with pytest.raises(KeyboardInterrupt):
                table.add(row("b"))
        assert table.done() == {"a"}
        table.add(row("b"))
        assert table.done() == {"a", "b"}

    def test_writers_do_not_lose_each_others_rows(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: ResultsTable(tmp_path).add(row(str(number))), range(24)))
        assert ResultsTable(tmp_path).done() == {str(number) for number in range(24)}

    def test_every_configuration_has_a_plan(self, tmp_path: Path) -> None:
        write_plan(tmp_path, "a", [row("1")])
        write_plan(tmp_path, "b", [row("2")], tables=["3a"])
        write_plan(tmp_path, "a", [row("3")])
        plans = read_plans(tmp_path)
        assert [[job["job_id"] for job in plan["jobs"]] for plan in plans] == [["3"], ["2"]]
        assert [plan["published_tables"] for plan in plans] == [[], ["3a"]]


class TestBuilding:
    class Model:
        """Records its arguments."""

        def __init__(self, k_shot: int = 0, seed: int = 9, visualizer: bool = True, evaluator: object = True) -> None:
            self.hparams = {"k_shot": k_shot, "seed": seed}
            self.visualizer, self.evaluator = visualizer, evaluator

    @pytest.fixture(autouse=True)
    def _model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(anomalib.models, "Recorder", self.Model, raising=False)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for category in ("bottle", "cable"):
            write_category(tmp_path, category)
        return tmp_path

    @staticmethod
    def few_shot(root: Path, **arguments: object) -> dict[str, Any]:
        mvtec = {"class_path": "MVTecAD", "init_args": {"root": str(root), "num_workers": 0}}
        return {"class_path": "FewShot", "init_args": {"datamodule": mvtec, "k_shot": 2, **arguments}}

    def test_the_seed_reaches_the_draw_and_the_model(self, root: Path) -> None:
        job = settings("Recorder", self.few_shot(root))
        datamodule = build_data(job)
        assert (datamodule.seed, build_model(job, datamodule).hparams["seed"]) == (3, 3)

    def test_seeds_that_are_given_stay(self, root: Path) -> None:
        model = {"class_path": "Recorder", "init_args": {"seed": 8}}
        job = settings(model, self.few_shot(root, seed=7))
        datamodule = build_data(job)
        assert (datamodule.seed, build_model(job, datamodule).hparams["seed"]) == (7, 8)

    def test_a_model_of_anomalib_takes_all_shots_of_the_data(self, root: Path) -> None:
        model = {"class_path": "Recorder", "init_args": {"k_shot": 1}}
        job = settings(model, self.few_shot(root, categories=["bottle", "cable"]))
        datamodule = build_data(job)
        built = build_model(job, datamodule)
        assert built.hparams["k_shot"] == 4
        assert describe(built, datamodule) == {"setting": "multi-class", "categories": "bottle;cable", "k_shot": 2}

    def test_a_model_that_learns_by_category_takes_the_shots_of_one(self, root: Path) -> None:
        model = {"class_path": "RegAD", "init_args": {"pre_trained": False, "image_size": 32}}
        job = settings(model, self.few_shot(root, categories=["bottle", "cable"]))
        assert build_model(job, build_data(job)).hparams["k_shot"] == 2

    def test_without_few_shot_the_model_keeps_its_own_number(self, root: Path) -> None:
        data = {"class_path": "MVTecAD", "init_args": {"root": str(root)}}
        job = settings({"class_path": "Recorder", "init_args": {"k_shot": 1}}, data)
        datamodule = build_data(job)
        built = build_model(job, datamodule)
        assert describe(built, datamodule) == {"setting": "one-class", "categories": "bottle", "k_shot": 1}

    def test_a_model_of_another_package_is_named_in_full(self, root: Path) -> None:
        job = settings({"class_path": "anople_anomalib.AnoPLe", "init_args": {"backbone": "anople-tiny"}})
        assert isinstance(build_model(job, build_data(settings(data=self.few_shot(root)))), AnoPLe)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("elsewhere.Model", "no model 'elsewhere.Model'"),
            ("pathlib.Path", "subclass of AnomalibModule"),
            ("Patchcor", r"no model 'Patchcor' \(did you mean 'Patchcore'\?\)"),
        ],
    )
    def test_what_is_no_model_is_named(self, root: Path, name: str, message: str) -> None:
        with pytest.raises((ValueError, anomalib.models.UnknownModelError), match=message):
            build_model(settings(name), build_data(settings(data=self.few_shot(root))))

    def test_a_grid_may_hold_objects(self) -> None:
        resize = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [32, 48]}}
        compose = {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": [resize]}}
        built = instantiated({"transform": compose, "layers": ["a", 1], "other": None})
        assert [part.size for part in built["transform"].transforms] == [[32, 48]]
        assert built["layers"] == ["a", 1]
        assert built["other"] is None

    def test_every_model_is_evaluated_by_category_and_draws_nothing(self, root: Path) -> None:
        job = settings("Recorder", self.few_shot(root))
        built = build_model(job, build_data(job))
        assert isinstance(built.evaluator, PerCategoryEvaluator)
        assert built.visualizer is False


class TestMeasures:
    def test_speed_leaves_out_the_first_batch_of_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter([0.0, 0.0, 10.0, 20.0, 22.0, 30.0, 31.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(times))
        speed = Clock()
        assert speed.images_per_second() == (None, None)
        for images in (6, 6, 3):
            batch = SimpleNamespace(image=torch.zeros(images, 3, 2, 2))
            speed.on_test_batch_start(None, None, batch, 0)
            speed.on_test_batch_end(None, None, None, batch, 0)
        assert speed.images_per_second()[0] == pytest.approx((6 + 3) / (2 + 1))

    def test_validation_is_no_part_of_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter([0.0, 0.0, 5.0, 10.0, 12.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(times))
        training = Clock()
        for _ in range(2):
            training.on_validation_epoch_start(None, None)
            training.on_validation_epoch_end(None, None)
        assert training.validation[0] == pytest.approx(5 + 2)

    def test_a_process_warms_up_once_and_leaves_no_trace(self) -> None:
        state = torch.get_rng_state()
        warm_up("cpu", None)
        warm_up("cpu", None)
        assert warm_up.cache_info().misses == 1
        assert logging.getLogger("lightning.pytorch").level != logging.ERROR
        torch.set_rng_state(state)

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
    def test_peak_memory_does_not_count_what_was_there_before(self) -> None:
        kept = torch.ones(300_000_000, dtype=torch.uint8)
        with PeakMemory(None) as memory:
            torch.ones(1_000_000, dtype=torch.uint8)
        assert kept.sum() > 0
        assert memory.megabytes < 150

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
    def test_peak_memory_is_that_of_the_block(self) -> None:
        def peak(megabytes: int) -> float:
            with PeakMemory(None) as memory:
                torch.ones(megabytes * 1_000_000, dtype=torch.uint8)
            return memory.megabytes

        with_tensor = peak(300)
        assert with_tensor > peak(1) + 200

    def test_trained_parameters_are_those_of_the_optimizers(self) -> None:
        trained, frozen = torch.nn.Linear(3, 2), torch.nn.Linear(5, 5).requires_grad_(requires_grad=False)
        optimizer = torch.optim.SGD([*trained.parameters(), *frozen.parameters()], lr=0.1)
        assert trained_parameters(SimpleNamespace(optimizers=[optimizer])) == 3 * 2 + 2
        assert trained_parameters(SimpleNamespace(optimizers=[])) == 0


class TestJob:
    def test_a_failure_is_a_row_with_its_error(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = tmp_path / "nowhere"
        data = {"class_path": "FewShot", "init_args": {"datamodule": {"class_path": "MVTecAD", "init_args": {}}}}
        data["init_args"]["samples"] = str(root / "list.yaml")
        FewShotJob(settings(data=data), tmp_path).run()
        failed = ResultsTable(tmp_path).rows()[0]
        assert failed["status"] == "failed"
        assert "list.yaml" in failed["error"]
        assert str(Path.home()) not in failed["error"]
        assert "[1/1] Padim on MVTecAD" in capsys.readouterr().out

    def test_what_is_done_is_skipped(self, tmp_path: Path) -> None:
        section = {**SECTION, "seed": {"grid": [0, 1, 2]}}
        first, second, _ = expand_jobs(section, "cpu")
        ResultsTable(tmp_path).add(row(first.job_id))
        ResultsTable(tmp_path).add(row(second.job_id, "failed"))
        jobs = FewShotJobGenerator("cpu", tmp_path)(section)
        assert [(job.settings.seed, job.position) for job in jobs] == [(1, "1/2"), (2, "2/2")]


class TestConsole:
    def test_the_table_shows_what_there_is(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = ResultsTable(tmp_path)
        many = ";".join("abcd")
        table.add(
            row("1", categories=many, k_shot=1, seed=0, image_AUROC=0.98765, fit_seconds=123.4, peak_memory_mb=5e3)
        )
        table.add(row("2", "failed", categories="a", seed=1, error="OSError: [red]no disk"))
        show(table.rows())
        output = capsys.readouterr().out
        assert all(text in output for text in ("Padim", "MVTecAD 4 categories", "0.988", "123.4", "failed"))
        assert "images" not in output  # nothing measured it
        assert "Failed: Padim on MVTecAD a, seed 1: OSError: [red]no disk" in output


class TestConfiguration:
    @staticmethod
    def run(tmp_path: Path, config: object, **arguments: object) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        FewShotPipeline().run(Namespace(config=path, **arguments))

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (None, "no section 'fewshot:'"),
            ({"benchmark": SECTION}, "no section 'fewshot:'"),
            ({"fewshot": SECTION, "seed": 1}, "Unknown key seed"),
            ({"fewshot": SECTION, "accelerator": "abacus"}, "Unknown accelerator 'abacus'"),
            ({"fewshot": SECTION, "processes": 0}, "processes must be .* 0"),
            ({"fewshot": {**SECTION, "model": None}}, "model is missing"),
        ],
    )
    def test_a_wrong_one_is_a_clear_error(self, tmp_path: Path, config: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.run(tmp_path, config, folder=str(tmp_path / "results"))
        assert not (tmp_path / "results").exists()

    def test_several_processes_get_anomalibs_parallel_runner(self, tmp_path: Path) -> None:
        pipeline = FewShotPipeline()
        pipeline.folder = tmp_path
        args = {"accelerator": ["cpu"], "processes": 2, "fewshot": SECTION}
        (runner,) = pipeline._setup_runners(args)
        assert isinstance(runner, ParallelRunner)
        (runner,) = pipeline._setup_runners({**args, "processes": None})
        assert isinstance(runner, SerialRunner)
        assert [job["model"] for job in read_plans(tmp_path)[0]["jobs"]] == ["Padim"]

    def test_numbers_of_a_job_on_ray_are_checked(self, tmp_path: Path) -> None:
        pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
        for name, value in {"cpus_per_job": 0, "gpus_per_job": -1.0}.items():
            with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
                self.run(tmp_path, {"fewshot": SECTION}, engine="ray", **{name: value})

    def test_an_address_where_nobody_listens_is_an_error_at_once(self, tmp_path: Path) -> None:
        pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
            address = f"127.0.0.1:{closed.getsockname()[1]}"
            with pytest.raises(ValueError, match=f"no Ray cluster at '{address}'"):
                self.run(tmp_path, {"fewshot": SECTION}, engine="ray", ray_address=address)

    def test_without_ray_the_message_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ImportError, match=r'pip install "ray\[data\]" pyarrow'):
            self.run(tmp_path, {"fewshot": SECTION}, engine="ray")

    def test_the_command_line_has_the_arguments_of_ray(self) -> None:
        options = ["--engine", "ray", "--ray_address", "a:1", "--cpus_per_job", "2", "--gpus_per_job", "0.5"]
        parsed = FewShotPipeline.get_parser().parse_args(["--config", "c.yaml", *options])
        assert (parsed.engine, parsed.ray_address, parsed.cpus_per_job, parsed.gpus_per_job) == ("ray", "a:1", 2, 0.5)


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
class TestShippedConfigurations:
    def test_every_argument_exists(self, path: Path) -> None:
        jobs = expand_config(path)
        assert jobs
        for job in jobs:
            check_arguments(anomalib.models, job.model)
            check_arguments(anomalib.data, job.data)
            inner = job.data["init_args"]["datamodule"]
            check_arguments(anomalib.data, {"class_path": inner} if isinstance(inner, str) else inner)

    def test_every_label_stands_in_the_published_table(self, path: Path) -> None:
        section = yaml.safe_load(path.read_text(encoding="utf-8"))["fewshot"]
        tables = section.get("published_tables")
        if path.parent.name == "ablation" and path.stem.startswith("table"):
            methods = load_published(tables)["method"]
            assert {job.label for job in expand_config(path)} <= set(methods)
        else:
            assert tables is None


def expand_config(path: Path) -> list[JobSettings]:
    section = yaml.safe_load(path.read_text(encoding="utf-8"))["fewshot"]
    return expand_jobs({key: value for key, value in section.items() if key != "published_tables"}, "cpu")


def check_arguments(module: ModuleType, settings: dict[str, Any]) -> None:
    cls = getattr(module, settings["class_path"])
    assert set(settings.get("init_args") or {}) <= set(signature(cls).parameters), json.dumps(settings)


@pytest.mark.parametrize("class_path", ["builtins.dict", "os.getcwd", "pathlib.Path", "no_such_module.Name"])
def test_a_configuration_calls_no_other_code_than_parts_of_models(class_path: str) -> None:
    with pytest.raises(ValueError, match=class_path):
        instantiated({"transform": {"class_path": class_path, "init_args": {}}})


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"jobs": []}',
        '{"jobs": [{"job_id": {"class_path": "os.getcwd"}}], "published_tables": []}',
        '{"jobs": [], "published_tables": [], "class_path": "os.getcwd"}',
    ],
)
def test_a_plan_that_holds_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "plan_a.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan_a\.json"):
        read_plans(tmp_path)


def test_another_table_than_a_comparison_s_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column status, job_id, config"):
        ResultsTable(tmp_path).rows()
