# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Compare models on the same shots, as anomalib fewshot does.

Usage:
    anople compare --config configs/benchmark/sample_textures.yaml --folder runs/textures
"""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from .terminal import FINE


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the comparison")
    parser.add_argument("--folder", type=str | None, default=None, help="folder of the results, to resume a run")
    parser.add_argument("--engine", type=Literal["local", "ray"], default="local", help="place where the jobs run")
    parser.add_argument("--ray_address", type=str | None, default=None, help="address of a running Ray cluster")
    parser.add_argument("--cpus_per_job", type=int, default=1, help="with Ray: CPU cores of a job")
    parser.add_argument("--gpus_per_job", type=float | None, default=None, help="with Ray: GPUs of a job")


def run(options: Namespace) -> int:
    """Run the comparison."""
    if not options.config.is_file():
        msg = f"There is no file '{options.config}': check --config."
        raise FileNotFoundError(msg)
    from anople_anomalib.pipeline import FewShotPipeline

    FewShotPipeline().run(options)
    return FINE
