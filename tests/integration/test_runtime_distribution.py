# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The distribution without torch: its files alone judge, watch and serve."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anople_anomalib.deployment.table import rows_of
from helpers.graphs import brightness_model
from helpers.services import free_port, is_up, wait_for

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = [pytest.mark.export, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60
PROGRAM = """
import sys

class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "lightning", "anomalib", "pandas", "matplotlib", "scipy", "cv2", "ray"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
from anople_anomalib.commands.station import main
sys.exit(main())
"""


def metadata_of(folder: Path) -> dict[str, Any]:
    """Return what a folder's pyproject.toml says."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """Starts the command with the files of the distribution alone."""
    place = tmp_path_factory.mktemp("distribution")
    files = metadata_of(ROOT / "runtime")["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in files.items():
        (place / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "runtime" / source, place / target)
    environment = os.environ | {"PYTHONPATH": str(place)}

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=place, env=environment, text=True, **pipes)

    return run


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A bright part in a folder of its own."""
    (tmp_path / "parts").mkdir()
    Image.new("RGB", (8, 8), "white").save(tmp_path / "parts" / "0.png")
    return tmp_path / "parts" / "0.png"


def test_it_judges(start: Callable[..., subprocess.Popen[str]], part: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start("judge", part.parent, "--model", brightness_model(tmp_path), "--output", output, "--fail-on-flag")
    _, wrong = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1, wrong
    assert [row["verdict"] for row in rows_of(output / "predictions.jsonl")] == ["NOT OK"]
    assert (output / "images" / "0.png").is_file()


def test_it_watches(start: Callable[..., subprocess.Popen[str]], part: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start("watch", part.parent, "--model", brightness_model(tmp_path), "--output", output)
    wait_for(lambda: len(rows_of(output / "predictions.jsonl")) == 1)
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, wrong


def test_it_serves(start: Callable[..., subprocess.Popen[str]], part: Path, tmp_path: Path) -> None:
    port = free_port()
    process = start("serve", "--model", brightness_model(tmp_path), "--port", port, "--output", tmp_path)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/judge", part.read_bytes(), method="POST")
    wait_for(lambda: is_up(port))
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        assert json.load(answer)["verdict"] == "NOT OK"
    process.send_signal(signal.SIGTERM)
    _, wrong = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, wrong


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("judge", "parts", "--model", "model.ckpt"), 2, "judges by exported models alone, .onnx or .xml"),
        (("watch", "parts", "--model", "model.ckpt"), 2, "judges by exported models alone, .onnx or .xml"),
        (("watch", "--source", "usb:0", "--model", "model.onnx"), 1, "need OpenCV: pip install"),
        (("teach", "parts"), 2, "There is no command 'teach'"),
    ],
)
def test_what_it_has_not_is_one_sentence(
    start: Callable[..., subprocess.Popen[str]], arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    process = start(*arguments)
    _, wrong = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert sentence in wrong.splitlines()[-1]


def test_both_distributions_ask_for_the_same_versions() -> None:
    whole, runtime = (metadata_of(folder)["project"] for folder in (ROOT, ROOT / "runtime"))
    for extra in ("ray", "serve", "signals"):
        assert runtime["optional-dependencies"][extra] == whole["optional-dependencies"][extra]
    asked = {line for lines in whole["optional-dependencies"].values() for line in lines}
    assert {line for line in runtime["optional-dependencies"]["cameras"] if "opencv" not in line} <= asked
