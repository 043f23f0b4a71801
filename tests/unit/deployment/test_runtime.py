# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""An exported model judges as its checkpoint does, without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.commands.main import main as anople
from anople_anomalib.deployment.metadata import read_metadata
from anople_anomalib.deployment.runtime import ExportedModel, exit_code, judge, read_pixels
from anople_anomalib.deployment.table import rows_of
from anople_anomalib.utils.files import image_files
from helpers.graphs import brightness_model, described
from helpers.training import train_model

pytestmark = [pytest.mark.export, pytest.mark.slow]
FORBIDDEN = ("torch", "lightning", "anomalib", "pandas", "matplotlib", "skimage", "scipy", "cv2")


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AnoPLe:
    """A trained model."""
    return train_model(root, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def photos(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of three sizes, one on its side, beside files that nobody can judge."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number, source in enumerate(sorted(root.rglob("test/*/*.png"))):
        size = ((96, 96), (150, 110), (300, 200))[number % 3]
        Image.open(source).convert("RGB").resize(size).save(folder / f"{number}.png")
    turned = Image.fromarray(random.integers(0, 255, (80, 120, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes(b"no image")
    Image.fromarray(random.integers(0, 65536, (90, 70), dtype=np.uint16)).save(folder / "gray16.png")
    Image.fromarray(np.full((40, 40), 4000, dtype=np.uint16)).save(folder / "deep.png")  # of 12 bits
    return folder


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def graph(request: pytest.FixtureRequest, model: AnoPLe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model."""
    pytest.importorskip("onnxruntime" if request.param == "onnx" else "openvino")
    pytest.importorskip("onnxscript")
    return getattr(model, f"to_{request.param}")(tmp_path_factory.mktemp(request.param))


def test_rows_are_those_of_the_checkpoint(graph: Path, model: AnoPLe, photos: Path, tmp_path: Path) -> None:
    model.save_checkpoint(tmp_path / "model.ckpt")
    plain = [str(path) for path in sorted(photos.iterdir()) if path.name not in ("broken.png", "deep.png")]
    anople(["judge", *plain, "--model", str(tmp_path / "model.ckpt"), "--output", str(tmp_path / "out")])
    expected = {row["path"]: row for row in rows_of(tmp_path / "out" / "predictions.jsonl")}
    found = {row["path"]: row for row in judge([photos], graph)}
    assert expected.keys() == set(plain)
    assert len(found) == len(plain) + 2
    for path, row in expected.items():
        own = found[path]
        assert own["verdict"] == row["verdict"]
        assert own["score"] == pytest.approx(row["score"], rel=1e-4)
        assert own["threshold"] == pytest.approx(row["threshold"], rel=1e-6)
        assert own["category"] == row["category"]
        assert [list(each.box) for each in own["regions"]] == [each["box"] for each in row["regions"]]
    assert {row["verdict"] for row in expected.values()} >= {"NOT OK"}
    assert "cannot identify" in found[str(photos / "broken.png")]["error"]
    assert "more than 8 bits" in found[str(photos / "deep.png")]["error"]
    assert found[str(photos / "deep.png")]["verdict"] == "ERROR"


def test_doubtful_parts_are_looked_at_as_by_the_checkpoint(
    model: AnoPLe, graph: Path, photos: Path, tmp_path: Path
) -> None:
    processor = model.require_thresholds()
    before = processor.look, processor.normal_scores
    processor.look, processor.normal_scores = True, [0.5, 1.0, 2.0]
    try:
        zone, written = processor.zone(), read_metadata(model.to_torch(tmp_path))
    finally:
        processor.look, processor.normal_scores = before
    looking = described(graph, tmp_path, look=written.look)
    rows = [row for row in judge([photos], looking) if row["verdict"] != "ERROR"]
    assert {row["verdict"] for row in rows} >= {"LOOK"}
    assert all((row["verdict"] == "LOOK") == (zone.lower < row["score"] <= zone.upper) for row in rows)


def test_a_row_names_a_file_as_that_of_a_checkpoint_does(
    graph: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    (row,) = judge(["0.png"], graph)
    assert row["path"] == str(photos / "0.png")


def test_several_at_once_give_the_same_rows_in_the_same_order(graph: Path, photos: Path) -> None:
    """One that waits for the others is not overtaken, whatever is wrong with it."""
    alone, together = (list(judge([photos] * 3, ExportedModel(graph, at_once))) for at_once in (1, 3))
    assert len(alone) == 3 * len(list(photos.iterdir()))
    for own, other in zip(alone, together, strict=True):
        assert [own[key] for key in ("path", "verdict", "error")] == [
            other[key] for key in ("path", "verdict", "error")
        ]
        assert (own["score"] is None) == (own["verdict"] == "ERROR")
        assert own["score"] is None or own["score"] == pytest.approx(other["score"], rel=1e-5)


@pytest.mark.parametrize("option", ["--look", "--white"])
def test_options_that_an_export_cannot_have_are_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit):
        anople(["judge", str(tmp_path), "--model", "model.onnx", option, "true" if option == "--look" else "4095"])
    assert "leave both out" in capsys.readouterr().err


def test_a_frame_that_holds_no_numbers_is_not_good(graph: Path) -> None:
    exported = ExportedModel(graph)
    frames = np.full((1, 3, 96, 96), 0.5, dtype=np.float32)
    frames[0, 1, 40, 40] = np.nan
    found = exported._run(frames)
    assert bool(found["pred_label"].reshape(-1)[0])
    assert np.isnan(found["pred_score"]).all()
    assert exported._judgment(found).row((96, 96), "")["verdict"] == "ERROR"


def test_neither_torch_nor_what_needs_it_is_imported(graph: Path, photos: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom anople_anomalib.commands.main import main\n"
        f"code = main(['judge', {str(photos / '0.png')!r}, '--model', {str(graph)!r}, '--output', {str(tmp_path)!r}])\n"
        f"print('loaded:', sorted(set(sys.modules) & set({FORBIDDEN})), code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "loaded: [] 0" in done.stdout
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["path"] == str(photos / "0.png")
    assert (tmp_path / "images" / "0.png").is_file()


def test_what_is_wrong_is_one_sentence(
    graph: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out")]
    assert anople(["judge", str(tmp_path / "none"), "--model", str(graph), *output]) == 1
    assert "There is no file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert anople(["judge", str(tmp_path / "empty"), "--model", str(graph), *output]) == 1
    assert "There is no image in" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"An exported model is a file .onnx or .xml"):
        ExportedModel(photos / "0.png")
    assert anople(["judge", str(photos), "--model", str(graph), *output]) == 3  # two images without a verdict
    assert "could not be judged" in capsys.readouterr().out


def test_the_command_judges_by_an_exported_model(graph: Path, photos: Path, tmp_path: Path) -> None:
    assert anople(["judge", str(photos), "--model", str(graph), "--output", str(tmp_path)]) == 3
    assert rows_of(tmp_path / "predictions.jsonl")[-1]["threshold"] == ExportedModel(graph).metadata.limits["image"]


@pytest.mark.parametrize(("gain", "code"), [(0.01, 0), (100.0, 1)])
def test_a_flagged_part_is_a_failure_where_that_is_asked_for(tmp_path: Path, gain: float, code: int) -> None:
    Image.new("RGB", (8, 8), "gray").save(tmp_path / "part.png")
    arguments = [str(tmp_path / "part.png"), "--model", str(brightness_model(tmp_path / "graph", gain=gain))]
    arguments += ["--output", str(tmp_path / "out")]
    assert anople(["judge", *arguments]) == 0
    assert anople(["judge", *arguments, "--fail-on-flag"]) == code


@pytest.mark.parametrize(
    ("counts", "code"), [({"OK": 3}, 0), ({"LOOK": 1}, 1), ({"NOT OK": 1, "ERROR": 1}, 1), ({"ERROR": 1}, 3)]
)
def test_exit_codes_tell_flagged_parts_from_unjudged_ones(counts: dict[str, int], code: int) -> None:
    assert exit_code(counts, fail_on_flag=True) == code
    assert exit_code(counts) == (3 if "ERROR" in counts else 0)


def test_a_graph_for_one_size_names_it(graph: Path, photos: Path, tmp_path: Path) -> None:
    path = described(graph, tmp_path, input_size=[96, 96])
    rows = {Path(row["path"]).name: row for row in judge([photos / "0.png", photos / "1.png"], path)}
    assert rows["0.png"]["verdict"] in ("OK", "NOT OK")
    assert "height and width 96x96, got 110x150" in rows["1.png"]["error"]


def test_hidden_files_are_left_out(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / ".a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    for name in ("b.dng", "c.HEIC", "notes.txt"):  # b.dng is the raw data of b.png
        (tmp_path / name).touch()
    assert image_files([tmp_path]) == [tmp_path / "b.png", tmp_path / "c.HEIC"]
    assert torch.equal(torch.tensor(read_pixels(photos / "turned.jpg").shape), torch.tensor([120, 80, 3]))


def test_heat_maps_of_an_earlier_run_are_no_parts(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "predictions.jsonl").touch()
    for name in ("part.png", "images/part.png"):
        shutil.copy(next(photos.glob("*.png")), tmp_path / name)
    assert image_files([tmp_path]) == [tmp_path / "part.png"]


FIRST_TWO = """
import sys, threading
import numpy as np
from anople_anomalib.deployment.exported import _openvino
run, meeting = _openvino(sys.argv[1], 2), threading.Barrier(2)
threads = [threading.Thread(target=lambda: (meeting.wait(), run(np.zeros((1, 3, 8, 8), np.float32)))) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_the_first_two_images_at_once_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = brightness_model(tmp_path)
    for _ in range(8):  # one in three hung without the setup of the conversions
        subprocess.run([sys.executable, "-c", FIRST_TWO, str(graph)], check=True, timeout=60)
