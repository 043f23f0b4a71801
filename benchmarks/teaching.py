# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Teaching and judging by this build over those of another commit: ratios of CPU time and of peak memory, and AUROC.

The other commit is checked out into a temporary folder. Both builds run in turn, each task in a process of its own:

- ``step``: one training step of the preset ``offline``
- ``teach``: four shots of 900 px, generated as textures, with the epochs that the preset takes
- ``quick``: ``anomalib train --config configs/quickstart.yaml``, the whole command
- ``judge``: one image where the second memory alone has a weight
- ``accuracy``: image and pixel AUROC, false alarms and escapes in percent of the preset ``offline`` for every folder of
  ``--parts``, whose shots are all that a build sees of its training images

Usage:
    python benchmarks/teaching.py --against 94a08c3
    python benchmarks/teaching.py --against 94a08c3 --tasks step judge --runs 5 --threads 1 2 --results FILE.csv
    python benchmarks/teaching.py --against 94a08c3 --tasks accuracy --parts DIR/cookie DIR/paper --shots 1 4
"""

import argparse
import csv
import inspect
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("step", "teach", "quick", "judge", "accuracy")
SHOTS, SIDE, STEPS, IMAGES = 4, 900, 5, 9
MEASURES = ("image", "pixel", "false_alarms", "escapes")
"""AUROCs, and shares of wrong verdicts by the default threshold."""


class Cost(NamedTuple):
    """CPU seconds and peak memory in MB of a task."""

    seconds: float
    megabytes: float


def write_shots(folder: Path) -> None:
    """Write textures: noise of several scales, as different as photographs of one surface."""
    import torch
    from torchvision.transforms.v2 import functional as tv_functional
    from torchvision.utils import save_image

    generator = torch.Generator().manual_seed(0)
    (folder / "good").mkdir()
    for number in range(SHOTS):
        scales = [torch.randn(1, 3, SIDE // cells, SIDE // cells, generator=generator) for cells in (1, 3, 10, 45)]
        layers = [tv_functional.resize(noise, [SIDE, SIDE], antialias=True) for noise in scales]
        texture = 0.5 + 0.1 * torch.stack(layers).sum(dim=0)
        save_image(texture.clamp(0, 1), folder / "good" / f"{number}.png")


def build(**arguments: Any) -> Any:
    """Build a model of the offline preset; builds before it had no presets, and 50 arguments."""
    from anople_anomalib import AnoPLe

    own = {"preset": "offline"} if "preset" in inspect.signature(AnoPLe).parameters else {"backbone": "anople-tiny"}
    return AnoPLe(**own, visualizer=False, **arguments)


def teach(folder: Path, epochs: int | None = None) -> Any:
    """Teach a model on the shots and return it."""
    from anomalib.data import Folder
    from anomalib.engine import Engine

    given = {} if epochs is None else {"max_epochs": epochs}
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    splits = {"test_split_mode": "none", "val_split_mode": "none", "num_workers": 0}
    model = build(k_shot=None)
    data = Folder(name="texture", root=folder, normal_dir="good", **splits)
    Engine(default_root_dir=folder / "results", **quiet, **given).fit(model, datamodule=data)
    return model.eval()


def write_part(part: Path, place: Path, shots: int, draw: int) -> None:
    """Write a part's shots and test images as the PNG files with numbers for names that every build reads."""
    from PIL import Image

    for folder in sorted(path for path in part.glob("*/*") if path.is_dir()):
        end = "_mask.png" if folder.parent.name == "ground_truth" else ".png"
        (place / folder.relative_to(part)).mkdir(parents=True)
        paths = sorted(folder.iterdir(), key=lambda path: path.stem.removesuffix("_mask"))
        if folder.parent.name == "train":
            paths = random.Random(draw).sample(paths, shots)  # noqa: S311  # a draw, no secret
        for number, path in enumerate(paths):
            with Image.open(path) as image:
                image.save(place / folder.relative_to(part) / f"{number:03d}{end}")


def accuracy(part: Path) -> list[float]:
    """Teach on a part in MVTec AD's layout; return how its test set is judged, in percent, as ``MEASURES``."""
    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from lightning.pytorch.callbacks import LambdaCallback

    judged: list[Any] = []  # batches, read when the post-processor has been through them

    keep = LambdaCallback(on_test_batch_end=lambda *arguments: judged.append(arguments[2]))
    data = MVTecAD(part.parent, part.name, num_workers=0, val_split_mode="none")
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    model = build(k_shot=None)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, callbacks=[keep], **quiet)
        engine.fit(model, datamodule=data)
        (found,) = engine.test(model, datamodule=data, verbose=False)
    real, called = (
        [bool(label) for batch in judged for label in getattr(batch, name)] for name in ("gt_label", "pred_label")
    )
    pairs = list(zip(real, called, strict=True))
    wrong = [pairs.count((truth, not truth)) / real.count(truth) for truth in (False, True)]
    return [100 * share for share in (found["image_AUROC"], found["pixel_AUROC"], *wrong)]


def median_of(function: Callable[[], object], number: int) -> float:
    """Return the median CPU time of a call, after one that warms up."""
    times = []
    for _ in range(number + 1):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def work(task: str, folder: Path) -> float | list[float]:
    """Run a task in this process and return its CPU seconds, or the AUROCs."""
    import torch
    from anomalib.data import ImageBatch

    warnings.filterwarnings("ignore")
    if task == "accuracy":
        return accuracy(folder)
    if task == "step":
        model = build(class_names="texture")
        model.log_dict = lambda *_args, **_kwargs: None  # there is no trainer to log to
        model.prepare_texts("texture")
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
        batch = ImageBatch(image=torch.rand(1, 3, *(2 * side for side in model.image_size)))

        def step() -> None:
            """Run one training step."""
            optimizer.zero_grad()
            model.training_step(batch, 0).backward()
            optimizer.step()

        return median_of(step, STEPS)
    start = time.process_time()
    model = teach(folder, epochs=1 if task == "judge" else None)
    if task == "teach":
        return time.process_time() - start
    model.model.fusion.set_weights([0.0, 0.0, 0.0])
    image = torch.rand(1, 3, *model.input_size)
    with torch.no_grad():
        return median_of(lambda: model.model(image), IMAGES)


def run(build_folder: Path, task: str, place: Path, threads: int) -> tuple[str, Any]:
    """Run a task by one build in a process of its own; return its last line and what the process has used."""
    environment = os.environ | {"PYTHONPATH": str(build_folder), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--work", task, str(place)]
        if task == "quick":
            command = [str(Path(sys.executable).with_name("anomalib")), "train", "--config", "configs/quickstart.yaml"]
            command += ["--default_root_dir", folder, "--trainer.accelerator", "cpu"]
        process = subprocess.Popen(  # noqa: S603  # our own command
            command, cwd=build_folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{task} of {build_folder} ended with {process.returncode}: {output[-400:]}")
    return output.splitlines()[-1], usage


def measure(build_folder: Path, task: str, shots: Path, threads: int) -> Cost:
    """Measure what a task costs by one build."""
    line, usage = run(build_folder, task, shots, threads)
    whole = usage.ru_utime + usage.ru_stime
    return Cost(whole if task == "quick" else json.loads(line), usage.ru_maxrss / 1024)


def compare_accuracy(arguments: argparse.Namespace, other: Path) -> list[dict[str, Any]]:
    """Return a row per part, number of shots and draw."""
    rows = []
    for part, shots, draw in itertools.product(arguments.parts, arguments.shots, range(arguments.draws)):
        place = other.parent / f"{part.name}_{shots}_{draw}"
        write_part(part.resolve(), place, shots, draw)
        before, now = (json.loads(run(folder, "accuracy", place, 1)[0]) for folder in (other, ROOT))
        row = {"part": part.name, "shots": shots, "draw": draw}
        for name, *values in zip(MEASURES, before, now, strict=True):
            row |= {f"{name}_{build}": round(value, 1) for build, value in zip(("before", "now"), values, strict=True)}
        print(row, flush=True)
        rows.append(row)
    return rows


def compare(arguments: argparse.Namespace, other: Path, shots: Path) -> list[dict[str, Any]]:
    """Measure both builds in turn, and return a row per task and number of threads."""
    rows = []
    for threads in arguments.threads:
        for task in arguments.tasks:
            pairs = [[measure(place, task, shots, threads) for place in (other, ROOT)] for _ in range(arguments.runs)]
            ratios = [statistics.median(now[i] / before[i] for before, now in pairs) for i in range(2)]
            before, now = (statistics.median(pair[i].seconds for pair in pairs) for i in range(2))
            row = {"task": task, "threads": threads, "runs": arguments.runs, "seconds_before": round(before, 3)}
            row |= {"seconds": round(now, 3), "time_ratio": round(ratios[0], 3), "memory_ratio": round(ratios[1], 3)}
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Compare this build with another commit's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="94a08c3", help="commit")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS[:-1])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", type=Path, nargs="+", default=[], help="folders in MVTec AD's layout, for accuracy")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4], help="numbers of shots, for accuracy")
    parser.add_argument("--draws", type=int, default=1, help="draws of the shots, for accuracy")
    parser.add_argument("--results", type=Path, help="CSV file to write")
    parser.add_argument("--work", nargs=2, metavar=("TASK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        task, place = arguments.work
        print(json.dumps(work(task, Path(place))))
        return
    if "accuracy" in arguments.tasks and len(arguments.tasks) > 1:
        parser.error("accuracy is measured alone: its table has other columns")
    with tempfile.TemporaryDirectory() as folder:
        other, shots = Path(folder) / "other", Path(folder) / "shots"
        shots.mkdir()
        write_shots(shots)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(other), arguments.against], check=True, capture_output=True)  # noqa: S603
        try:
            accurate = arguments.tasks == ["accuracy"]
            rows = compare_accuracy(arguments, other) if accurate else compare(arguments, other, shots)
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)  # noqa: S603
    if arguments.results:
        with arguments.results.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
