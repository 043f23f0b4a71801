# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Peak memory of ``anomalib test`` over more and more images.

Trains ``anople-tiny`` for one epoch on brick of ``SampleTextures`` and tests it, by the command, on folders of as many
images as asked for: the same photographs again and again. Measured is the resident memory of the largest process,
twenty times a second.

Usage:
    python benchmarks/test_memory.py
    python benchmarks/test_memory.py --images 100 500 --model memory.backbone=none
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import psutil

from anople_anomalib.data import SampleTextures

COMMAND = [sys.executable, str(Path(sys.executable).parent / "anomalib")]
TRAINER = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
MODEL = ["--model", "AnoPLe", "--model.preset", "offline", "--model.visualizer", "false"]
CATEGORY = "brick"
_PAUSE = 0.05  # seconds between two looks at the processes


def copy_images(source: Path, target: Path, number: int) -> None:
    """Fill a category in MVTec AD's layout with so many test images, half of them anomalous.

    Args:
        source: A category of ``SampleTextures``.
        target: The new category.
        number: How many test images.
    """
    for image in (source / "train" / "good").glob("*.png"):
        _copy(image, target / "train" / "good" / image.name)
    damaged = [path for path in sorted((source / "test").rglob("*.png")) if path.parent.name != "good"]
    for index, image in enumerate(islice(cycle(sorted((source / "test" / "good").glob("*.png"))), number // 2)):
        _copy(image, target / "test" / "good" / f"{index:05d}.png")
    for index, image in enumerate(islice(cycle(damaged), number - number // 2)):
        mask = source / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
        _copy(image, target / "test" / "damaged" / f"{index:05d}.png")
        _copy(mask, target / "ground_truth" / "damaged" / f"{index:05d}_mask.png")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def data_arguments(root: Path, results: Path) -> list[str]:
    """Return the arguments that name the data and the folder of the results."""
    data = ["--data", "MVTecAD", "--data.root", str(root), "--data.category", CATEGORY, "--data.num_workers", "0"]
    return [*data, "--data.val_split_mode", "none", "--data.eval_batch_size", "8", "--default_root_dir", str(results)]


def train(root: Path, results: Path, model: Sequence[str]) -> Path:
    """Train for one epoch and return the checkpoint."""
    arguments = [*MODEL, *model, *data_arguments(root, results), *TRAINER, "--trainer.max_epochs", "1"]
    subprocess.run([*COMMAND, "fit", *arguments], check=True, capture_output=True)  # noqa: S603  # our own arguments
    return next(results.rglob("*.ckpt"))


def peak_of(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a command and watch it.

    Args:
        command: The command; the processes that it starts are watched, too.
        folder: Where it runs.

    Returns:
        The peak of the largest process in MB, and the seconds that all took.
    """
    started, found = time.perf_counter(), dict[int, float]()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)  # noqa: S603  # our own command
        while process.poll() is None:
            for pid, resident in _resident(process.pid):
                found[pid] = max(found.get(pid, 0.0), resident / 1e6)
            time.sleep(_PAUSE)
    if process.returncode:
        sys.exit((folder / "log.txt").read_text()[-2000:])
    return max(found.values()), time.perf_counter() - started


def _resident(pid: int) -> Iterator[tuple[int, int]]:
    """Yield the resident bytes of a process and of those that it has started; some may end meanwhile."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            yield member.pid, member.memory_info().rss


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[100, 500, 2000])
    parser.add_argument("--model", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of AnoPLe")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    textures = SampleTextures(category=CATEGORY)
    textures.prepare_data()
    model = [f"--model.{setting}" for setting in arguments.model]
    print("| images | peak, MB | s |\n| ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = train(Path(textures.root), folder / "training", model)
        for number in arguments.images:
            copy_images(Path(textures.root).resolve() / CATEGORY, folder / str(number) / CATEGORY, number)
            data = data_arguments(folder / str(number), folder / f"results_{number}")
            test = [*COMMAND, "test", *MODEL, *model, *data, *TRAINER, "--ckpt_path", str(checkpoint)]
            peak, seconds = peak_of(test, folder)
            print(f"| {number} | {peak:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
