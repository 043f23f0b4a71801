# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Anomalib's command line inside the process of the tests, where it knows the miniature CLIP."""

from pathlib import Path

from anomalib.cli.cli import AnomalibCLI

from helpers.miniature import MINIATURE

MODEL = ("--model", "AnoPLe", "--model.backbone", MINIATURE, "--model.pretrained", "random")
QUIET = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false")


class Parser(AnomalibCLI):
    """The command line, up to the point where it would build what it has read."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


def data_arguments(root: Path) -> tuple[str, ...]:
    """The arguments for a tiny category in MVTec's layout."""
    return ("--data", "MVTecAD", "--data.root", str(root), "--data.category", "bottle", "--data.num_workers", "0")


def anomalib(command: str, *arguments: str | Path, results: Path) -> AnomalibCLI:
    """Run ``anomalib COMMAND ARGUMENTS``, on the CPU and quiet."""
    return AnomalibCLI([command, *map(str, arguments), *QUIET, "--default_root_dir", str(results)])
