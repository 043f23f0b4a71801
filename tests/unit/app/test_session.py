# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a person does with the page, without a page."""

import csv
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import PredictDataset
from PIL import Image
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.app import drawing, proving, taking
from anople_anomalib.app import session as session_module
from anople_anomalib.app import training as training_module
from anople_anomalib.app.session import OFFLINE, Session
from anople_anomalib.app.training import Good, Thresholds, allowed
from anople_anomalib.app.uploads import MAX_GOOD, AppError, safe_name, take_in, without_paths
from anople_anomalib.deployment.journal import check
from anople_anomalib.deployment.outbox import delivered
from helpers.folders import write_category
from helpers.services import Service, wait_for
from helpers.training import make_datamodule, make_engine, make_model

REPOSITORY = Path(__file__).parents[3]
NAMES = ("000", "001", "002")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_category(tmp_path_factory.mktemp("files")) / "bottle"


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setattr(training_module, "AnoPLe", lambda _preset, **arguments: make_model(**arguments))
    monkeypatch.setattr(session_module, "SHORT_STEPS", 4)
    session = Session(root=tmp_path, journal=tmp_path / "journal.jsonl")
    yield session
    session.close()
    assert not session.folder.exists()


@pytest.fixture
def taught(session: Session, files: Path) -> Session:
    session.add_good([files / "train" / "good" / f"{name}.png" for name in NAMES[:2]])
    session.teach("bottle")
    return session


def test_rows_of_images_reach_a_receiver_that_was_down(taught: Session, files: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[app]'")
    from anople_anomalib.app.actions import Sessions

    service, images = Service(), sorted((files / "test").rglob("*.png"))
    with delivered(tmp_path / "out", [service.url]) as deliver:
        sessions = Sessions(tmp_path, deliver=deliver)
        sessions.ask(taught, images[:2])
        sessions.ask(taught, images[2:3], ["later.png"])
        service.start()
        wait_for(lambda: len(service.rows) == 3)
    service.stop()
    answers = {answer.photo.name: answer for answer in taught.answers}
    assert [row["path"] for row in service.rows] == [image.name for image in images[:2]] + ["later.png"]
    for row in service.rows:
        answer = answers[row["path"]]
        assert row["verdict"] == ("NOT OK" if taught.is_bad(answer) else "OK")
        assert (row["score"], row["model"]) == (answer.score, taught.model.model_id())
        assert row["threshold"] == taught.thresholds.image
        assert all(0.5 < region["peak"] < 1 for region in row["regions"])  # normalized, as in every other row
    assert any(row["regions"] for row in service.rows)


def asked(session: Session, files: Path) -> Session:
    session.ask(sorted((files / "test").rglob("*.png")))
    return session


def test_teach_ask_and_threshold(taught: Session, files: Path) -> None:
    assert taught.progress.step == taught.progress.steps == 4
    assert not taught.progress.stopped
    assert allowed(taught.good, None) == pytest.approx(taught.thresholds, rel=1e-4), "as the training run had it"
    scores = [answer.score for answer in asked(taught, files).answers]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    taught.set_threshold((scores[0] + scores[1]) / 2)
    assert [taught.is_bad(answer) for answer in taught.answers] == [True, False, False, False]
    assert [answer.score for answer in taught.answers] == scores, "no new pass"
    with pytest.raises(AppError, match="positive"):
        taught.set_threshold(0)


def test_scores_are_those_of_the_engine(taught: Session, files: Path, tmp_path: Path) -> None:
    asked(taught, files)
    path = taking.checkpoint(taught)
    model = AnoPLe.load_from_checkpoint(path, visualizer=False)
    dataset = PredictDataset(path=files / "test")
    batches = make_engine(tmp_path).predict(model=model, dataset=dataset, return_predictions=True) or []
    predicted = {Path(item.image_path).parent.name[0] + Path(item.image_path).name: item for b in batches for item in b}
    assert len(predicted) == len(taught.answers)
    scores = sorted(float(item.pred_score) for item in predicted.values())
    limit = taught.thresholds.image
    assert_close(torch.tensor(scores), torch.tensor(sorted(a.score / (a.score + limit) for a in taught.answers)))
    assert sum(bool(item.pred_label) for item in predicted.values()) == sum(map(taught.is_bad, taught.answers))


def test_correct_and_undo(taught: Session, files: Path) -> None:
    asked(taught, files)
    before = taught.answers[0], taught.thresholds, list(taught.good), len(taught.model.model.memory_bank or ())
    taught.this_is_good(before[0])
    again = next(answer for answer in taught.answers if answer.photo == before[0].photo)
    assert again.score < before[0].score
    assert len(taught.good) == 3
    assert len(taught.model.model.memory_bank or ()) > before[3]
    with pytest.raises(AppError, match="already"):
        taught.this_is_good(again)
    taught.undo()
    assert (taught.answers[0].score, taught.thresholds, taught.good) == (before[0].score, *before[1:3])
    assert len(taught.model.model.memory_bank or ()) == before[3]
    with pytest.raises(AppError, match="no correction"):
        taught.undo()


def test_take_away(taught: Session, files: Path) -> None:
    asked(taught, files)
    taught.set_threshold(taught.answers[1].score)
    rows = list(csv.DictReader(taking.table(taught).open()))
    assert [row["verdict"] for row in rows] == ["NOT OK", "OK", "OK", "OK"]
    assert all("/" not in row["path"] for row in rows)
    assert {row["model"] for row in rows} == {taught.model.model_id()}
    assert {row["rank"].partition(" of ")[2] for row in rows} == {"2 good parts scored higher"}
    assert all(row["time"] and row["versions"] for row in rows)
    model = AnoPLe.load_from_checkpoint(taking.checkpoint(taught))
    assert float(model.require_thresholds().image_threshold) == pytest.approx(taught.thresholds.image)
    text = taking.commands(taught)
    assert str(taught.folder) not in text
    assert "--model.training.epochs 2" in text
    fresh = Session(taking.checkpoint(taught), taught.folder)
    assert fresh.thresholds == pytest.approx(taught.thresholds)
    with pytest.raises(AppError, match="No good image"):
        fresh.allow_false_alarms(0.1)


def test_a_dark_upload_of_12_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "dark.png")
    with pytest.raises(AppError, match=r"The largest value in images of 16 bits is 4095 .*--white of anople convert"):
        take_in([tmp_path / "dark.png"], tmp_path / "kept", 3)


def test_known_parts_are_proven_against_the_threshold_that_moves(taught: Session, files: Path) -> None:
    assert "add both" in proving.shown(taught)
    with pytest.raises(AppError, match="add both"):
        proving.study_page(taught)
    taught.prove(sorted((files / "test" / "good").glob("*.png")), "OK")
    taught.prove(sorted((files / "test" / "hole").glob("*.png")), "hole")
    taught.set_threshold(1e-5)
    assert "good, called wrongly: 2 of 2" in proving.shown(taught)
    assert "hole, called wrongly: 0 of 2 (0 %; at most 77.6 % with 95 % confidence)" in proving.shown(taught)
    taught.set_threshold(1e5)
    assert "good, called wrongly: 0 of 2" in proving.shown(taught)
    assert "hole, called wrongly: 2 of 2" in proving.shown(taught)
    page = proving.study_page(taught, "for the customer")
    assert "Escapes: at most 2 % with 95 % confidence" in page.read_text(encoding="utf-8")
    assert str(taught.folder) not in page.read_text(encoding="utf-8")
    study = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert study["result"] == "fail"
    assert study["subject"]["model id"] == taught.model.model_id()


def test_parts_that_the_model_rests_on_prove_nothing(taught: Session, files: Path, tmp_path: Path) -> None:
    good, other = sorted((files / "test" / "good").glob("*.png"))
    with pytest.raises(AppError, match="The model rests on one of these images"):
        taught.prove([good, files / "train" / "good" / f"{NAMES[0]}.png"], "good")
    taught.prove([good], "good")
    with pytest.raises(AppError, match="is there twice"):
        taught.prove([good, other], "good")
    assert len(taught.known) == 1
    taught.clear_known()
    taught.ask([good])
    taught.this_is_good(taught.answers[0])
    with pytest.raises(AppError, match="The model rests on one of these images"):
        taught.prove([good], "good")
    Image.open(good).save(tmp_path / "good.bmp")
    with pytest.raises(AppError, match="The model rests on one of these images"):
        taught.prove([tmp_path / "good.bmp"], "good")
    taught.undo()
    taught.prove([good], "good")


def test_the_journal_holds_all_that_changed_a_model(taught: Session, files: Path, tmp_path: Path) -> None:
    asked(taught, files)
    taught.this_is_good(taught.answers[0], "a hair, no defect")
    for value in (0.1, 0.2, 0.3):  # on the way of a slider
        taught.set_threshold(value)
    path = taking.checkpoint(taught, "fewer false alarms")
    taught.undo("a mistake")
    journal = tmp_path / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [line["action"] for line in lines] == ["teach", "this is good", "threshold", "undo"]
    assert [line["reason"] for line in lines] == ["", "a hair, no defect", "fewer false alarms", "a mistake"]
    assert [len(line["images"]) for line in lines] == [2, 1, 0, 0]
    assert lines[2]["model"] == AnoPLe.load_from_checkpoint(path).model_id()
    assert lines[2]["thresholds"][0] == pytest.approx(0.3)
    assert check(journal)[::2] == (4, "")


def test_drawings_name_what_they_show(taught: Session, files: Path) -> None:
    gallery = drawing.gallery(asked(taught, files))
    assert gallery.count("<li ") == gallery.count('role="img"') == 4
    assert str(taught.folder) not in gallery
    why = drawing.reason(taught, taught.answers[0])
    assert 'src="data:image/png;base64,' in why
    assert str(taught.folder) not in why


def test_a_stopped_run_leaves_a_model(session: Session, files: Path) -> None:
    session.add_good([files / "train" / "good" / "000.png"])
    thread = threading.Thread(target=session.teach, args=("bottle", OFFLINE, True))
    thread.start()
    while session.progress.step == 0 and thread.is_alive():
        time.sleep(0.01)
    session.stop.set()
    thread.join(60)
    assert session.is_trained
    assert 0 < session.progress.step < session.progress.steps
    assert session.progress.stopped


def test_two_do_not_mix(tmp_path: Path, files: Path) -> None:
    one, two = Session(root=tmp_path), Session(root=tmp_path)
    one.add_good([files / "train" / "good" / "000.png"])
    assert two.taught == []
    assert one.folder != two.folder
    one.close()
    assert two.folder.exists()
    two.close()


def test_one_who_waits_can_stop_and_begin_again(session: Session, files: Path) -> None:
    session.add_good([files / "train" / "good" / "000.png"])
    session.stop.set()
    with pytest.raises(AppError, match="Stopped before the training run began"):
        session.teach("bottle")
    assert not session.is_trained
    told: list[str] = []
    session.teach("bottle", report=lambda _share, text: told.append(text))
    assert session.is_trained
    assert re.fullmatch(r"Step 1 of 4, \d+ seconds left\.", told[0])
    assert told[-1] == "Step 4 of 4, memory and threshold are being made."


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"no image", "no image that can be read"),
        ("a.txt", b"text", "no image among"),
        ("a.png", b"", "'a.png'"),
        ("a.zip", b"PK\x05\x06" + bytes(18), "no image among"),  # an archive, empty
        ("a.png", b"PK\x05\x06" + bytes(18), "no image that can be read"),
    ],
)
def test_uploads_are_checked(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AppError, match=words) as error:
        take_in([tmp_path / name], tmp_path / "kept", MAX_GOOD)
    assert str(tmp_path) not in str(error.value)


def test_the_reason_why_an_upload_is_refused_is_told(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (9, 9), color) for color in ("white", "black"))
    first.save(tmp_path / "a.tiff", save_all=True, append_images=[second])
    with pytest.raises(AppError, match=r"^The image 'a.tiff' cannot be read \(it has several pages or frames"):
        take_in([tmp_path / "a.tiff"], tmp_path / "kept", MAX_GOOD)


def test_too_many_and_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(AppError, match="17 images are too many: at most 16"):
        take_in([tmp_path / "a.png"] * 17, tmp_path / "kept", MAX_GOOD)
    monkeypatch.setattr("anople_anomalib.app.uploads.MAX_PIXELS", 80)
    with pytest.raises(AppError, match="9 x 9 pixels"):
        take_in([tmp_path / "a.png"], tmp_path / "kept", MAX_GOOD)


def test_kept_images_are_upright_and_plain(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    kept = take_in([tmp_path / "a.jpg"], tmp_path / "kept", MAX_GOOD)[0]
    with Image.open(kept.path) as image:
        assert image.size == (10, 20)
        assert not image.getexif()


def test_names_are_harmless() -> None:
    assert safe_name("../../=HYPERLINK(x).png") == "HYPERLINK_x_.png"
    assert safe_name("...") == "image.png"


def test_no_two_images_have_the_same_name(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    kept = take_in([tmp_path / "a.png"] * 2, tmp_path / "kept", MAX_GOOD)
    kept += take_in([tmp_path / "a.png"], tmp_path / "kept", MAX_GOOD, kept)
    assert [photo.name for photo in kept] == ["a.png", "a_2.png", "a_3.png"]
    assert len({photo.path for photo in kept}) == 3
    named = take_in([tmp_path / "a.png"], tmp_path / "kept", MAX_GOOD, kept, ["crack_000.png"])
    assert named[0].name == "crack_000.png"


def test_messages_have_no_paths() -> None:
    assert without_paths("'/home/me/secret/a.png' is bad, see C:\\Users\\me\\b.png") == "'a.png' is bad, see b.png"
    assert without_paths("1/2 of it and a/b") == "1/2 of it and a/b"
    assert without_paths("(https://a.org/b/c.pt) is not in /home/me/x") == "(https://a.org/b/c.pt) is not in x"


def test_actions_without_a_model_say_so(tmp_path: Path) -> None:
    session = Session(root=tmp_path)
    for action in (lambda: session.ask([]), lambda: taking.checkpoint(session), lambda: taking.commands(session)):
        with pytest.raises(AppError, match="teach it good parts first"):
            action()
    with pytest.raises(AppError, match="no good image"):
        session.teach("bottle")
    session.close()


def test_a_model_without_a_threshold_calls_nothing_good(files: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1)
    make_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=make_datamodule(files.parent))
    model.save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(AppError, match="has no threshold, and so no verdicts"):
        Session(tmp_path / "model.ckpt", root=tmp_path)


def test_false_alarms_are_promised_with_confidence() -> None:
    good = [Good(float(score), float(score)) for score in range(1, 47)]
    thresholds = allowed(good, 0.1)
    assert thresholds == Thresholds(45.5, 45.5)  # 1 of 46 promises 10 %
    with pytest.raises(ValueError, match="takes 29 good parts, there are 4: 25 more are missing"):
        allowed(good[:4], 0.1)
