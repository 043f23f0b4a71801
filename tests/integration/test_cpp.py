# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The example in C++ judges as the runtime in Python does."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.deployment.runtime import judge
from helpers.folders import write_category
from helpers.training import train_model

pytestmark = [pytest.mark.export, pytest.mark.slow]
openvino_utils = pytest.importorskip("openvino.utils")
SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
HEADERS = {"stb/stb_image.h": "libstb-dev", "nlohmann/json.hpp": "nlohmann-json3-dev"}
LINE = re.compile(r"(OK|NOT OK|LOOK|ERROR) +(.*)  (\S+)")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"There is no {tool} to build the example with.")
    for header, package in HEADERS.items():
        if not any((Path(place) / header).is_file() for place in ("/usr/include", "/usr/local/include")):
            pytest.skip(f"There is no {header}: apt-get install {package}.")
    build = tmp_path_factory.mktemp("build")
    configure = ["cmake", "-S", SOURCE, "-B", build, f"-DOpenVINO_DIR={openvino_utils.get_cmake_path()}"]
    for command in (configure, ["cmake", "--build", build]):
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return build / "judge"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set."""
    return write_category(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AnoPLe:
    """A trained model."""
    return train_model(root, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def photos(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes and kinds, two of which nobody can judge."""
    folder = tmp_path_factory.mktemp("photos")
    for number, source in enumerate(sorted(root.rglob("test/*/*.png"))):
        size = ((96, 96), (150, 110), (300, 200))[number % 3]
        Image.open(source).convert(("RGB", "L", "P", "RGBA")[number % 4]).resize(size).save(folder / f"{number}.png")
    Image.fromarray(np.full((40, 40), 4000, dtype=np.uint16)).save(folder / "deep.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def rows(program: Path, graph: Path, photos: Path) -> dict[str, tuple[str, str]]:
    """Verdict and words of the program on every image."""
    command = [program, graph, *sorted(photos.iterdir())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 3, ended.stderr
    return {found[3]: (found[1], found[2]) for found in map(LINE.fullmatch, ended.stdout.splitlines()) if found}


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_scores_and_verdicts_are_those_of_python(
    program: Path, model: AnoPLe, photos: Path, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("onnxscript")
    processor = model.require_thresholds()
    before = processor.look, processor.normal_scores
    processor.look, processor.normal_scores = kind == "onnx", [0.5, 1.0, 2.0]  # one of both with LOOK
    try:
        graph = Path(getattr(model, f"to_{kind}")(tmp_path))
    finally:
        processor.look, processor.normal_scores = before
    expected, found = list(judge([photos], graph)), rows(program, graph, photos)
    assert found.keys() == {row["path"] for row in expected}
    for row in expected:
        verdict, words = found[row["path"]]
        assert verdict == row["verdict"]
        if verdict == "ERROR":
            continue
        score, threshold = map(float, re.fullmatch(r"(\S+) \(threshold (\S+)\)", words).groups())
        assert score == pytest.approx(row["score"], rel=1e-4)
        assert threshold == pytest.approx(row["threshold"], rel=1e-6)
    assert "more than 8 bits" in found[str(photos / "deep.png")][1]
    assert {verdict for verdict, _ in found.values()} >= ({"LOOK"} if kind == "onnx" else {"NOT OK"})


def test_a_model_without_its_metadata_is_refused(program: Path, tmp_path: Path) -> None:
    ended = subprocess.run([program, tmp_path / "model.onnx", "a.png"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "no .json beside the model" in ended.stderr
