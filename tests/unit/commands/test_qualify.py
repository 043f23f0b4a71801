# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""An acceptance study from the command to the page."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.commands.main import main
from anople_anomalib.commands.qualify import find_pictures, read_trials
from anople_anomalib.deployment.journal import journal_of
from anople_anomalib.deployment.metadata import read_metadata
from anople_anomalib.deployment.table import rows_of
from helpers.folders import write_category
from helpers.graphs import brightness_model, described
from helpers.training import make_datamodule, make_engine, make_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, beside the data that it was trained on."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model()
    make_engine(folder).fit(model, datamodule=make_datamodule(write_category(folder / "data")))
    model.set_thresholds(image=0.01, pixel=0.01)
    model.save_checkpoint(folder / "model.ckpt")
    model.note(journal_of(folder / "model.ckpt"), "teach", "for the test", folder / "model.ckpt")
    return folder / "model.ckpt"


def write_parts(folder: Path, *kinds: str, number: int = 3, seed: int = 0) -> Path:
    """Pictures that no model has seen."""
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for part in range(number):
            Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / kind / f"{part}.png")
    return folder


def study_of(folder: Path) -> dict:
    return json.loads((folder / "study.json").read_text(encoding="utf-8"))


def test_a_study_is_written(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = write_parts(tmp_path / "parts", "OK", "crack", "hole")
    output = tmp_path / "study"
    assert main(["qualify", str(parts), "--model", str(checkpoint), "--output", str(output)]) == 4
    told = capsys.readouterr().out
    assert "False alarms: at most 5 % with 95 % confidence: fail. 3 of 3" in told
    assert "Escapes: at most 2 % with 95 % confidence: not proven. 0 of 6" in told
    study = study_of(output)
    assert study["result"] == "fail"
    assert {name: rate["n"] for name, rate in study["study"]["classes"].items()} == {"crack": 3, "good": 3, "hole": 3}
    assert study["threshold"] == pytest.approx(0.01)
    assert len(study["subject"]["model SHA-256"]) == 64
    assert study["subject"]["model id"] == AnoPLe.load_from_checkpoint(checkpoint).model_id()
    assert "written: 1 line, the last one with the SHA-256" in study["subject"]["journal"]
    assert len(study["pictures"]) == 9
    page = (output / "study.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 9
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "Repeatability: every part was pictured once." in page
    assert main(["qualify", str(parts), "--model", str(checkpoint), "--output", str(output)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_trials_make_an_agreement_study(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for trial in range(2):
        write_parts(tmp_path / "parts" / f"trial {trial}", "good", "crack", seed=trial)
    assert main(["qualify", "parts", "--model", str(checkpoint), "--output", "study"]) == 4
    study = study_of(tmp_path / "study")["study"]
    assert study["classes"]["good"]["n"] == 3
    assert study["agreement"]["stations"][""]["right_verdicts"]["n"] == 12
    assert study["agreement"]["repeatability"]["sigma"] > 0
    page = (tmp_path / "study" / "study.html").read_text(encoding="utf-8")
    assert "Agreement of trials" in page
    right = page.partition("Right verdicts, per trial</th><td>")[2].partition("</td>")[0]
    assert re.fullmatch(r"\d+ of 12 \(.*; at least .* with 95 % confidence\)", right), "a rate that should be high"


@pytest.mark.parametrize("exported", [False, True])
def test_pictures_that_the_model_rests_on_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], exported: bool
) -> None:
    model = checkpoint
    if exported:
        known = read_metadata(AnoPLe.load_from_checkpoint(checkpoint).to_torch(tmp_path)).known_images
        model = described(brightness_model(tmp_path / "graph"), tmp_path, known_images=known)
    parts = write_parts(tmp_path / "parts", "good", "crack")
    shot = next((checkpoint.parent / "data").rglob("train/good/*.png"))
    for image in sorted((checkpoint.parent / "data").rglob("train/good/*.png")):
        Image.open(image).save(parts / "good" / f"renamed {image.stem}.tiff")
    assert shot.is_file()
    assert main(["qualify", str(parts), "--model", str(model), "--output", str(tmp_path / "study")]) == 1
    assert "are shots or calibration images of this model, such as" in capsys.readouterr().err
    if exported:
        thresholds = ["threshold", "--model", str(model), "--images", str(parts / "good"), "--output", "x.onnx"]
        assert main(thresholds) == 1
        assert "is an exported model, for anople judge and qualify alone" in capsys.readouterr().err


def test_an_exports_study_has_its_rows_and_what_look_would_save(tmp_path: Path) -> None:
    good = [0.1, 0.11, 0.12, 0.13, 0.14]
    model = described(brightness_model(tmp_path / "graph"), tmp_path, good=good, look=None)
    parts = write_parts(tmp_path / "parts", "good", "crack")
    main(["qualify", str(parts), "--model", str(model), "--output", str(tmp_path / "study")])
    rows = rows_of(tmp_path / "study" / "predictions.jsonl")
    study = study_of(tmp_path / "study")
    assert {row["path"]: row["score"] for row in rows} == {each["path"]: each["score"] for each in study["pictures"]}
    assert not study["look"]
    assert study["zone"]["lower"] < study["threshold"] < study["zone"]["upper"]
    assert study["study"]["looks"]["good"]["n"] == 3


def test_what_is_no_study_is_refused_before_anything_is_judged(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(checkpoint), "--output", str(tmp_path / "study")]
    parts = write_parts(tmp_path / "parts", "good")
    assert main(["qualify", str(parts), *options]) == 1
    assert "A study takes good and defective parts, got good." in capsys.readouterr().err
    for number, trial in enumerate("12"):
        write_parts(tmp_path / "trials" / trial, "good", "crack", number=2 + number, seed=number)
    assert main(["qualify", str(tmp_path / "trials"), *options]) == 1
    assert "Every part must be judged 2 times at every station, got 1 verdicts" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_files_of_one_stem_are_two_parts(tmp_path: Path) -> None:
    write_parts(tmp_path, "good", "crack", number=1)
    Image.new("RGB", (8, 8)).save(tmp_path / "good" / "0.bmp")
    assert sorted(each.part for each in find_pictures(tmp_path)) == ["0.bmp", "0.png", "0.png"]


def test_an_export_takes_no_white(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = write_parts(tmp_path / "parts", "good", "crack")
    with pytest.raises(SystemExit, match="2"):
        main(["qualify", str(parts), "--model", "model.onnx", "--white", "4095"])
    assert "takes 8 bits alone, without --white: leave both out" in capsys.readouterr().err


def test_a_picture_saved_anew_is_no_other_part(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = write_parts(tmp_path / "parts", "good", "crack")
    Image.open(parts / "good" / "0.png").save(parts / "good" / "9.bmp")
    assert main(["qualify", str(parts), "--model", str(checkpoint), "--output", str(tmp_path / "study")]) == 1
    assert "9.bmp' and" in (told := capsys.readouterr().err)
    assert "are the same picture: a copy is no other part and no repeat" in told


def test_pictures_of_many_bits_are_shown_with_their_white(checkpoint: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(("good", "crack")):
        (tmp_path / "parts" / kind).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(1000, 2000, (48, 48), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "parts" / kind / "0.png")
    options = ["--model", str(checkpoint), "--output", str(tmp_path / "study"), "--white", "4095"]
    assert main(["qualify", str(tmp_path / "parts"), *options]) == 4
    page = (tmp_path / "study" / "study.html").read_text(encoding="utf-8")
    for picture in re.findall(r"data:image/jpeg;base64,([^\"']+)", page):
        assert 60 < np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).mean() < 130


def test_a_copy_is_no_repeat(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for trial in "12":
        write_parts(tmp_path / trial, "good", "crack")
    assert main(["qualify", str(tmp_path), "--model", str(checkpoint), "--output", str(tmp_path / "study")]) == 1
    assert "are the same picture: a copy is no other part and no repeat" in capsys.readouterr().err


def test_a_table_names_parts_trials_and_stations(tmp_path: Path) -> None:
    write_parts(tmp_path, "ok", "crack")
    table = tmp_path / "trials.csv"
    table.write_text("part,trial,station,file\n7,1,A,ok/0.png\n7,2,A,ok/1.png\n8,1,B,crack/0.png\n", encoding="utf-8")
    found = [each[1:5] for each in read_trials(table, tmp_path)]
    assert found == [("good", "7", "A", "1"), ("good", "7", "A", "2"), ("crack", "8", "B", "1")]
    table.write_text("part,file\n7,ok/0.png\n", encoding="utf-8")
    with pytest.raises(ValueError, match="missing: station, trial"):
        read_trials(table, tmp_path)
    table.write_text("part,trial,station,file\n7,1,A,ok/9.png\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"names 'ok/9\.png', which is not in"):
        read_trials(table, tmp_path)


def test_folders_without_good_parts_are_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, "crack", "hole")
    with pytest.raises(FileNotFoundError, match="must have a folder of good parts"):
        find_pictures(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        find_pictures(tmp_path / "missing")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "must have the columns part, trial, station, file"),
        (b"part,trial,station,file\n", "names no picture: give a line for each"),
        (b"part,trial,station,file\n1,a,s\n", "line 2: there must be a value for every column"),
        (b"part,trial,station,file\n1,a,s,ok/0.png,x\n", "line 2: there must be a value for every column, and no more"),
        (b"part,trial,station,file\n1,a,s,\n", "line 2, names '', which is not in"),
        (b"part,trial,station,file\n1,a,\xfc,ok/0.png\n", "is no CSV table in UTF-8"),
        (b'part,trial,station,file\n1,a,s,"ok/0.png\n', "is no CSV table in UTF-8"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path: Path, lines: bytes, message: str) -> None:
    (tmp_path / "trials.csv").write_bytes(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_trials(tmp_path / "trials.csv", write_parts(tmp_path / "parts", "OK", number=1))
    with pytest.raises(FileNotFoundError, match="There is no table"):
        read_trials(tmp_path / "none.csv", tmp_path)
