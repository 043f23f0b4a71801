# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""An export is compared with its checkpoint, and not kept where verdicts differ."""

import json
from pathlib import Path

import pytest

from anople_anomalib.anople import AnoPLe
from anople_anomalib.commands.main import main
from anople_anomalib.deployment.metadata import read_metadata
from helpers.graphs import brightness_model, described
from helpers.training import train_model

pytestmark = [pytest.mark.export, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a trained model."""
    folder = tmp_path_factory.mktemp("training")
    train_model(root, folder).save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture(scope="module")
def photos(root: Path) -> Path:
    """Good and defective images."""
    return next(root.rglob("test"))


def test_an_export_is_compared_when_it_is_written_and_on_the_users_images(
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export = ["export", "--model", str(checkpoint), "--type", "onnx", "--output", str(tmp_path)]
    assert main([*export, "--input_size", "[90,110]"]) == 0  # made-up images of its size
    said = capsys.readouterr().out
    assert "Export and checkpoint agree on 8 images" in said
    assert "Every image" not in said  # their table is not kept
    assert "torch.onnx" not in said
    file = Path(said.splitlines()[-1])
    assert file.is_file()
    assert main(["check", str(file), "--model", str(checkpoint), "--images", str(photos)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == len(list(photos.rglob("*.png")))
    assert found["largest_relative_score_difference"] < 1e-4
    assert found["verdicts_that_differ"] == {}
    assert found["not_compared"] == []
    assert found["milliseconds_export"] > 0
    (tmp_path / "small").mkdir()
    small = described(file, tmp_path / "small", input_size=[40, 48])
    assert main(["check", str(small), "--model", str(checkpoint), "--images", str(photos)]) == 1
    assert "No image has the height and width of this export, 40x48" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*export[:-1], str(tmp_path / "none"), "--input_size", "[0,48]"])
    assert "--input_size must be a height and a width of 1 or more, got [0, 48]" in capsys.readouterr().err
    monkeypatch.chdir(photos.parent)
    assert main(["check", str(file), "--model", str(checkpoint), "--images", photos.name]) == 0  # a relative folder
    assert json.loads(capsys.readouterr().out)["images"] == found["images"]

    # images without a score, and another state of the model
    broken, more = tmp_path / "broken.png", tmp_path / "more.ckpt"
    broken.write_bytes(b"no image")
    assert main(["check", str(file), "--model", str(checkpoint), "--images", str(photos), str(broken)]) == 3
    assert json.loads(capsys.readouterr().out)["not_compared"] == [str(broken)]
    new = str(next(photos.rglob("*.png")))
    assert main(["learn-more", new, "--model", str(checkpoint), "--output", str(more)]) == 0
    capsys.readouterr()
    assert main(["check", str(file), "--model", str(more), "--images", str(photos)]) == 4
    assert not json.loads(capsys.readouterr().out)["same_model"]


def test_a_quantized_export_says_how_far_its_scores_are(
    checkpoint: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    good = next(root.rglob("train/good"))
    export = ["export", "--model", str(checkpoint), "--output", str(tmp_path), "--compression", "INT8_PTQ"]
    with pytest.raises(SystemExit):
        main(export)
    assert "calibrates on images: give some of good parts by --images DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*export, "--type", "onnx", "--images", str(good)])
    assert "--compression is OpenVINO's" in capsys.readouterr().err
    assert main([*export, "--images", str(good)]) == 0
    said = capsys.readouterr().out
    assert f"agree on {len(list(good.iterdir()))} images; scores differ by" in said
    assert read_metadata(Path(said.splitlines()[-1])).compression == "INT8_PTQ"


def test_an_export_that_judges_otherwise_is_told(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = brightness_model(tmp_path, gain=100.0)
    assert main(["check", str(other), "--model", str(checkpoint), "--images", str(photos)]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts_that_differ"]
    assert all(pair == ["OK", "NOT OK"] for pair in found["verdicts_that_differ"].values())


def test_an_export_that_judges_otherwise_is_not_kept(
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AnoPLe, "to_onnx", lambda _self, folder, **_: brightness_model(Path(folder), gain=100.0))
    arguments = ["export", "--model", str(checkpoint), "--type", "onnx", "--images", str(photos)]
    assert main([*arguments, "--output", str(tmp_path / "exported")]) == 1
    assert "NOT OK, its checkpoint OK: it was not kept" in capsys.readouterr().err
    assert not list((tmp_path / "exported").rglob("*.onnx"))


def test_images_that_cannot_be_judged_are_no_comparison(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = brightness_model(tmp_path / "graph")
    (tmp_path / "broken.png").write_bytes(b"no image")
    arguments = ["check", str(graph), "--model", str(checkpoint), "--images", str(tmp_path / "broken.png")]
    assert main(arguments) == 1
    assert "None of the 1 images could be judged" in capsys.readouterr().err
