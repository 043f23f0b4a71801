# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""``--engine ray`` on a real cluster of Ray: a head without cores, and two workers with one each."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image

from anople_anomalib.commands.main import main
from anople_anomalib.deployment.table import rows_of
from anople_anomalib.pipeline import FewShotPipeline
from anople_anomalib.pipeline.results import ResultsTable
from helpers.folders import write_category
from helpers.graphs import brightness_model

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
SMALL = {"backbone": "resnet18", "layers": ["layer3"], "pre_trained": False}
PADIM = {"class_path": "Padim", "init_args": {**SMALL, "n_features": 4}}
PATCHCORE = {"class_path": "Patchcore", "init_args": {**SMALL, "coreset_sampling_ratio": 0.5}}
BROKEN = {"class_path": "Padim", "init_args": {"shots": 1}, "label": "Broken"}
COSTS = (
    "fit_seconds",
    "test_seconds",
    "images_per_second",
    "peak_memory_mb",
    "fit_cpu_seconds",
    "test_cpu_seconds",
    "images_per_cpu_second",
)
SECONDS = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster on this machine; its workers find the tests' helpers, and compute with one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else runs here must not end a worker
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def run(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[dict[str, str]]]]:
    """A function that runs a grid of models on a tiny category, and returns its rows."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # which Lightning sets
        monkeypatch.setenv(name, "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_category(tmp_path / "data")
    mvtec = {"class_path": "MVTecAD", "init_args": {"root": "data", "num_workers": 0, "category": "bottle"}}
    data = {"class_path": "FewShot", "init_args": {"datamodule": mvtec, "k_shot": 2}}

    def run(
        models: list[dict[str, Any]], folder: str, seeds: Sequence[int], **arguments: object
    ) -> list[dict[str, str]]:
        section = {"seed": {"grid": seeds}, "model": {"grid": models}, "data": data}
        Path("comparison.yaml").write_text(yaml.safe_dump({"accelerator": "cpu", "fewshot": section}))
        FewShotPipeline().run(Namespace(config="comparison.yaml", folder=folder, **arguments))
        return ResultsTable(folder).rows()

    def run_on_ray(
        models: list[dict[str, Any]], folder: str, engine: str = "ray", seeds: Sequence[int] = (0,)
    ) -> list[dict[str, str]]:
        return run(models, folder, list(seeds), engine=engine, ray_address=cluster.address)

    yield run_on_ray
    torch.set_num_threads(threads)


def test_ray_gives_the_serial_runs_rows_and_skips_what_is_done(run: Callable[..., list[dict[str, str]]]) -> None:
    models = [PADIM, BROKEN, PATCHCORE]
    serial = {row["job_id"]: row for row in run(models, "serial", engine="local")}
    rows = run(models, "ray")
    assert [row["status"] for row in rows].count("failed") == 1
    for row in rows:
        same = serial[row["job_id"]]
        assert {name: row[name] for name in row if name not in COSTS} == {
            name: same[name] for name in same if name not in COSTS
        }
        assert row["status"] == "failed" or all(float(row[cost]) > 0 for cost in COSTS)
    files = [{p.relative_to(f): p.read_bytes() for p in Path(f).glob("*/**/*.*")} for f in ("serial", "ray")]
    assert files[0] == files[1] != {}, "drawn shots and example maps"
    again = {row["job_id"]: row for row in run([PADIM, PATCHCORE], "ray") if row["status"] == "ok"}
    assert again == {row["job_id"]: row for row in rows if row["status"] == "ok"}, "done, hence not run again"


def test_a_worker_that_dies_costs_its_job_one_retry(run: Callable[..., list[dict[str, str]]], tmp_path: Path) -> None:
    once, always = (
        {
            "class_path": "helpers.dying.Dying",
            "init_args": {**PADIM["init_args"], "marker": str(tmp_path / f"{deaths}.txt"), "deaths": deaths},
            "label": f"dies {deaths} times",
        }
        for deaths in (1, 99)
    )
    rows = run([once, always], "results")
    by_label = [(row["model"], row["status"]) for row in sorted(rows, key=lambda row: (row["model"], row["seed"]))]
    assert by_label == [("dies 1 times", "ok"), ("dies 99 times", "failed")]
    lost = "WorkerCrashedError: the job lost its worker, and that of its retry."
    assert all(row["error"].startswith(lost) for row in rows if row["status"] == "failed")
    assert len((tmp_path / "1.txt").read_text().split()) == 2, "the job, and again"
    assert len((tmp_path / "99.txt").read_text().split()) == 2, "the job, and again, once"


def test_a_machine_that_is_lost_costs_its_job_one_retry(
    run: Callable[..., list[dict[str, str]]],
    cluster: Any,
    tmp_path: Path,
) -> None:
    marker = tmp_path / "marker.txt"
    waiting = {**PADIM["init_args"], "marker": str(marker), "waits": True}

    def lose() -> None:
        """Kill the machine whose job waits for it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and not marker.exists():
            time.sleep(0.1)
        own = int(marker.read_text().split()[0])
        (lost,) = (node for node in cluster.worker_nodes if raylet_of(own) == process_of(node))
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        rows = run([{"class_path": "helpers.dying.Dying", "init_args": waiting}], "results", seeds=(0, 1))
    finally:
        thread.join()
        cluster.add_node(num_cpus=1)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert len(marker.read_text().split()) == 3, "two jobs, and one of them again"


def test_images_are_judged_once_in_their_order_though_a_worker_dies(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.chdir(tmp_path)
    random, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    for number in range(200):
        Image.fromarray(random.integers(number, 256, (8, 8, 3), dtype=np.uint8)).save(photos / f"{number:03d}.png")
    (photos / "broken.png").write_bytes(b"no image")
    judge = ["judge", "photos", "--model", str(brightness_model(tmp_path / "graph")), "--pictures"]
    assert main([*judge, "false", "--output", "serial"]) == 3
    pipe, kept = photos / "150.png", tmp_path / "150.png"
    pipe.rename(kept)
    pipe.symlink_to(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe")
    killed = threading.Thread(target=kill_reader, args=(tmp_path / "pipe", lambda: kept.rename(pipe)))
    killed.start()
    assert main([*judge, "true", "--output", "ray", "--engine", "ray"]) == 3
    killed.join()
    serial, rows = rows_of(Path("serial/predictions.jsonl")), rows_of(Path("ray/predictions.jsonl"))
    assert [row["path"] for row in rows] == [row["path"] for row in serial]
    assert {row["verdict"] for row in rows} == {"OK", "NOT OK", "ERROR"}
    states = {"seconds", "time", "versions"}  # torch is in this process alone
    for row, same in zip(rows, serial, strict=True):
        assert {key: row[key] for key in row.keys() - states} == {key: same[key] for key in row.keys() - states}
    assert len(list(Path("ray/images").rglob("*.*"))) == 200
    table = Path("ray/predictions.jsonl")
    lines = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(lines[:120]) + lines[120][:50])  # as a run that is killed leaves it
    Image.new("RGB", (8, 8)).save(photos / "007.png")  # another picture, whose row there is
    capsys.readouterr()
    assert main([*judge, "false", "--output", "ray", "--engine", "ray"]) == 3
    assert "82 images: " in capsys.readouterr().out
    assert [row["path"] for row in rows_of(table)] == [row["path"] for row in rows[:120]] + [
        str(photos / "007.png"), *(row["path"] for row in rows[120:])
    ]  # fmt: skip
    capsys.readouterr()
    assert main([*judge, "false", "--output", "ray", "--engine", "ray"]) == 0
    assert "0 images: " in capsys.readouterr().out


def kill_reader(pipe: Path, mend: Callable[[], object]) -> None:
    """Kill the process that waits for a pipe, once the way around it is mended."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody reads
            time.sleep(0.1)
    readers: set[int] = set()
    while time.monotonic() < deadline and not readers:  # its file is listed only after both ends were opened
        found = (
            int(fd.parts[2]) for fd in Path("/proc").glob("[0-9]*/fd/*") if fd.is_symlink() and points_to(fd, pipe)
        )
        readers = set(found) - {os.getpid()}
    mend()
    for reader in readers:
        os.kill(reader, signal.SIGKILL)
    os.close(writer)


def points_to(link: Path, file: Path) -> bool:
    """Whether an open file of a process is this one."""
    try:
        return link.readlink() == file
    except OSError:  # closed, or of another user
        return False


def raylet_of(process: int) -> int:
    """Number of the process that has started a worker of Ray."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def process_of(node: Any) -> int:
    """Number of the process of a machine of the cluster."""
    return node.all_processes["raylet"][0].process.pid
