# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The load test of the service accounts for every image."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from helpers.graphs import brightness_model

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "load.py"

pytest.importorskip("fastapi")


def test_every_image_under_load_has_an_answer_and_every_verdict_a_row(tmp_path: Path) -> None:
    graph, images = brightness_model(tmp_path / "graph"), tmp_path / "images"
    images.mkdir()
    for brightness in (10, 250):
        Image.new("RGB", (12, 10), (brightness,) * 3).save(images / f"{brightness}.png")
    command = [sys.executable, str(PROGRAM), "--model", str(graph), "--images", str(images)]
    ended = subprocess.run(
        [*command, "--seconds", "0.5", "--rounds", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "ANOPLE_TOKEN"},
    )
    assert ended.returncode == 0, ended.stderr
    bare, *served = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ended.stdout.splitlines()[2:]]
    assert bare[0] == "bare runtime"
    assert int(bare[1]) == int(bare[5]) > 0
    assert len(served) == 3
    for _, number, _, _, _, verdicts, refused, rows, lost in served:
        assert int(number) == int(verdicts) + int(refused)
        assert int(rows) == int(verdicts) > 0
        assert lost == "0"


def test_lost_images_are_counted() -> None:
    specification = importlib.util.spec_from_file_location("load", PROGRAM)
    load = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(load)
    answers = [
        load.Answer(name, status, 0.1) for name, status in zip("abcdef", (200, 200, 200, 429, 0, 500), strict=True)
    ]
    rows = Counter({"a": 1, "c": 2})  # b's was not delivered, c's twice, e and f have neither verdict nor 429
    assert load.account(answers, rows) == load.Account(verdicts=3, refused=1, rows=3, lost=4)
