# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""From the start of a process to its first verdict, and images a second: an export beside ``anomalib predict``.

A model is trained on one shot of SampleTextures and exported. Each program then judges the same image, and afterwards
many, in a process of its own; seconds of wall clock and CPU, and the peak of its memory, are of the whole process.
Programs take turns, so that other load of the machine meets all of them.

Usage:
    python benchmarks/on_the_line.py [--preset offline] [--repeats 3] [--images 500] [--flat 2000]
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CATEGORY, NEW_IMAGE = "brick", "hole/000.png"
BIN = Path(sys.executable).parent
MEGABYTE = 1024  # of ru_maxrss, kilobytes on Linux


def prepare(folder: Path, preset: str) -> tuple[Path, dict[str, Path], Path]:
    """Train and export a model; return its checkpoint, its exports, and an image with a defect."""
    from anople_anomalib import AnoPLe
    from anople_anomalib.commands.main import main as anople
    from anople_anomalib.data import SampleTextures

    datamodule = SampleTextures(category=CATEGORY)
    datamodule.prepare_data()
    place, checkpoint = Path(datamodule.root) / CATEGORY, folder / "model.ckpt"
    anople(["teach", str(place / "train" / "good"), "--shots", "1", "--preset", preset, "--output", str(checkpoint)])
    model = AnoPLe.load_from_checkpoint(checkpoint, visualizer=False).cpu().eval()
    exports = {"ONNX Runtime": model.to_onnx(folder / "onnx"), "OpenVINO": model.to_openvino(folder / "openvino")}
    return checkpoint, exports, place / "test" / NEW_IMAGE


def commands(
    checkpoint: Path, exports: dict[str, Path], images: Path, preset: str, output: Path, *, pictures: bool
) -> dict[str, list[str]]:
    """Return the command line of every program."""
    anomalib = [str(BIN / "anomalib"), "predict", "--model", "AnoPLe", *model_arguments(preset)]
    anomalib += ["--ckpt_path", str(checkpoint), "--data", str(images), "--default_root_dir", str(output / "anomalib")]
    judge = [str(BIN / "anople"), "judge", str(images), "--pictures", str(pictures).lower()]
    found = {
        "anomalib predict": anomalib if pictures else [*anomalib, "--model.visualizer", "false"],
        "anople judge, checkpoint": [*judge, "--model", str(checkpoint), "--output", str(output / "anople")],
    }
    for name, graph in exports.items():
        found[f"anople judge, {name}"] = [
            *judge,
            "--model",
            str(graph),
            "--output",
            str(output / name.replace(" ", "_")),
        ]
    return found


def model_arguments(preset: str) -> list[str]:
    """Return the arguments of ``anomalib predict`` that build the model of the checkpoint."""
    return ["--model.preset", preset]


def run(command: list[str], log: Path) -> tuple[float, float, float]:
    """Run a command; return its seconds of wall clock and of CPU, and the peak of its memory in MB."""
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603  # programs of this file
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / MEGABYTE


def many(image: Path, folder: Path, number: int) -> Path:
    """Return a folder with copies of an image."""
    folder.mkdir()
    for count in range(number):
        shutil.copy(image, folder / f"{count:05d}.png")
    return folder


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="offline")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=500, help="0 for the first verdict alone")
    parser.add_argument("--flat", type=int, default=0, help="images whose memory is compared with that of a tenth")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        # in a process of its own: a program's peak of memory is never below that of the process that starts it
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            checkpoint, exports, image = pool.apply(prepare, (root, options.preset))
        table("First verdict", checkpoint, exports, image, root, options.preset, options.repeats)
        if options.images:
            folder = many(image, root / "many", options.images)
            for pictures in (False, True):
                title = f"{options.images} images, {'rows and pictures' if pictures else 'rows'}"
                table(title, checkpoint, exports, folder, root, options.preset, 1, pictures=pictures)
        if options.flat:
            flat(checkpoint, exports, image, root, options.preset, options.flat)


def table(
    title: str,
    checkpoint: Path,
    exports: dict[str, Path],
    images: Path,
    root: Path,
    preset: str,
    repeats: int,
    *,
    pictures: bool = False,
) -> None:
    """Print a table of all programs, with their shares of the first one's."""
    programs = commands(checkpoint, exports, images, preset, root / "output", pictures=pictures)
    figures: dict[str, list[tuple[float, float, float]]] = {program: [] for program in programs}
    for _ in range(repeats):
        for program, command in programs.items():
            figures[program].append(run(command, root / "log.txt"))
    print(f"\n{title}: | wall s | CPU s | MB | shares of the first\n| --- | --- | --- | --- | --- |")
    first: list[float] = []
    for program, measured in figures.items():
        medians = [statistics.median(column) for column in zip(*measured, strict=True)]
        first = first or medians
        shares = ", ".join(f"{own / other:.3f}" for own, other in zip(medians, first, strict=True))
        print(f"| {program} | {medians[0]:.2f} | {medians[1]:.2f} | {medians[2]:.0f} | {shares} |", flush=True)


def flat(checkpoint: Path, exports: dict[str, Path], image: Path, root: Path, preset: str, number: int) -> None:
    """Print the peak of the memory of each runtime over so many images, and over a tenth of them."""
    print(f"\nMB: | {number // 10} images | {number} images | ratio\n| --- | --- | --- | --- |")
    found: dict[str, list[float]] = {}
    for count in (number // 10, number):
        images = many(image, root / f"flat-{count}", count)
        for program, command in commands(checkpoint, exports, images, preset, root / "flat", pictures=False).items():
            if program.endswith(tuple(exports)):
                found.setdefault(program, []).append(run(command, root / "log.txt")[2])
    for program, (few, whole) in found.items():
        print(f"| {program} | {few:.0f} | {whole:.0f} | {whole / few:.3f} |", flush=True)


if __name__ == "__main__":
    main()
