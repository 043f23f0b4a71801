# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Less noise on the command line, for this package's model alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from anople_anomalib.utils.quiet import is_about_this_package

LOG = """
import logging, types
from anomalib.loggers import configure_logger
from anople_anomalib.utils.quiet import quieten
cli = types.ModuleType("cli")
cli.configure_logger = configure_logger
quieten(cli)
cli.configure_logger()
logging.getLogger("anople_anomalib.x").info("a long line " * 30)
logging.getLogger("anomalib.engine").info("inner life")
logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available")
logging.getLogger("anomalib.engine").warning("mend this")
logging.getLogger("anomalib.engine").warning("ckpt_path is not provided.")
"""


def test_every_message_is_one_line() -> None:
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", LOG], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines() == ["a long line " * 30, "warning: mend this"]


@pytest.mark.parametrize(
    ("arguments", "ours"),
    [
        (["train", "--model", "AnoPLe"], True),
        (["train", "--model=anople_anomalib.AnoPLe"], True),
        (["train", "--model", "Patchcore"], False),
        (["train", "--config", "{}/ours.yaml"], True),
        (["train", "--config", "{}/theirs.yaml"], False),
        (["train", "--config", "{}/missing.yaml"], False),
    ],
)
def test_other_models_keep_their_messages(tmp_path: Path, arguments: list[str], ours: bool) -> None:
    (tmp_path / "ours.yaml").write_text("model:\n  class_path: AnoPLe\n")
    (tmp_path / "theirs.yaml").write_text("model:\n  class_path: Padim\n")
    assert is_about_this_package([argument.format(tmp_path) for argument in arguments]) == ours
