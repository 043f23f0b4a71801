# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Milliseconds an image of ``anople judge`` over many small images: one process, and two workers of Ray.

Images are hard links to a few files of random pixels. Each program judges a few images first, whose time is that of its
start and is taken off. Rows must be the same.

Usage:
    python benchmarks/ray_judging.py EXPORT [--images 10000] [--size 64]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from anople_anomalib.deployment.table import rows_of

CONTENTS, FEW = 20, 20
OF_A_RUN = {"time", "seconds", "versions"}


def linked(folder: Path, number: int, size: int) -> Path:
    """Return a folder of images of few contents."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for count in range(min(CONTENTS, number)):
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{count:06d}.png")
    for count in range(CONTENTS, number):
        os.link(folder / f"{count % CONTENTS:06d}.png", folder / f"{count:06d}.png")
    return folder


def seconds(images: Path, model: Path, output: Path, *engine: str) -> float:
    """Judge images in a process with one thread, and return its seconds."""
    command = [sys.executable, "-m", "anople_anomalib.commands.main", "judge", str(images), "--model", str(model)]
    command += ["--pictures", "false", "--output", str(output), *engine]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})  # noqa: S603
    return time.perf_counter() - started


def main() -> None:
    """Print a line for each engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="exported model")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        few = linked(root / "few", FEW, options.size)
        many = linked(root / "many", options.images, options.size)
        found = []
        for engine in ("local", "ray"):
            start = seconds(few, options.model, root / f"{engine}-few", "--engine", engine)
            whole = seconds(many, options.model, root / engine, "--engine", engine)
            each = 1000 * (whole - start) / (options.images - FEW)
            print(f"{engine}: {start:.1f} s to start, {whole:.1f} s, {each:.2f} ms an image", flush=True)
            rows = rows_of(root / engine / "predictions.jsonl")
            found.append([{key: row[key] for key in row.keys() - OF_A_RUN} for row in rows])
        print(f"{len(found[1])} rows, which are {'the same' if found[0] == found[1] else 'OTHERS'}.")


if __name__ == "__main__":
    main()
