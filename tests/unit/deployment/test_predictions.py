# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions: one row per image, written as it is judged."""

import csv
import json
import logging
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch, PredictDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from anople_anomalib.anople import AnoPLe
from anople_anomalib.commands.main import main as anople
from anople_anomalib.data.image_series import ImageList
from anople_anomalib.deployment.table import COLUMNS, ERROR, LOOK, NOT_OK, OK, TableWriter, mend, rows_of
from helpers.folders import write_category
from helpers.training import make_datamodule, make_engine, make_model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tiny data set in MVTec's layout."""
    return write_category(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AnoPLe:
    """A trained miniature."""
    model = make_model(epochs=1)
    make_engine(tmp_path_factory.mktemp("training")).fit(model, datamodule=make_datamodule(root))
    return model


def rows_in(folder: Path) -> list[dict]:
    """Rows of the one table below a folder, which both files hold."""
    path = next(folder.rglob("predictions.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    with path.with_suffix(".csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    assert [json.loads(row["regions"]) for row in table] == [row["regions"] for row in rows]
    return rows


def test_a_test_writes_a_row_for_every_image(model: AnoPLe, root: Path, tmp_path: Path) -> None:
    engine, datamodule = make_engine(tmp_path), make_datamodule(root)
    engine.test(model, datamodule=datamodule)
    rows = rows_in(tmp_path)
    assert {row["path"] for row in rows} == set(datamodule.test_data.samples.image_path)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {row["category"] for row in rows} == {"bottle"}
    for row in rows:
        assert row["threshold"] == pytest.approx(float(model.post_processor.image_threshold))
        assert row["verdict"] == (NOT_OK if row["score"] > row["threshold"] else OK)
        assert row["seconds"] > 0
        good = model.require_thresholds().normal_scores
        higher = sum(score > row["score"] for score in good)
        assert row["rank"] == f"{higher} of {len(good)} good parts scored higher"
        assert (row["place"] == "") == (row["regions"] == [])


def test_scores_are_the_models_own(model: AnoPLe, root: Path, tmp_path: Path) -> None:
    batches = make_engine(tmp_path).predict(model, datamodule=make_datamodule(root))
    rows = {row["path"]: row for row in rows_in(tmp_path)}
    for batch in batches:
        with torch.no_grad():
            raw = model.model(batch.image).pred_score.flatten()
        for path, score, normalized in zip(batch.image_path, raw, batch.pred_score, strict=True):
            assert rows[path]["score"] == pytest.approx(score.item(), abs=1e-6)
            assert rows[path]["normalized_score"] == pytest.approx(normalized.item(), abs=1e-6)


def test_the_end_sums_up(model: AnoPLe, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "anople_anomalib"):
        make_engine(tmp_path).test(model, datamodule=make_datamodule(root))
    rows = rows_in(tmp_path)
    bad = sum(row["verdict"] == NOT_OK for row in rows)
    text = next(record.message for record in caplog.records if "Every image" in record.message)
    assert text.startswith(f"{len(rows)} images: {bad} not OK, {len(rows) - bad} OK.")
    worst = sorted(rows, key=lambda row: -row["score"])[:5]
    assert [line.split()[-1] for line in text.splitlines()[1:-1]] == [row["path"] for row in worst]


class _Interrupt(Callback):
    """Stops a prediction after two batches.

    Args:
        error: What it raises.
    """

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Raise in the third batch."""
        del trainer, pl_module
        if args[2] == 2:
            raise self.error


def test_who_interrupts_is_told_where_the_rows_are(
    model: AnoPLe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        Image.new("RGB", (40, 30), (number, 90, 90)).save(tmp_path / f"{number}.png")
    caplog.set_level(logging.INFO)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_engine(tmp_path, [_Interrupt(KeyboardInterrupt)]).predict(model, dataset=PredictDataset(tmp_path))
    rows = rows_in(tmp_path)
    said = next(record.message for record in caplog.records if record.message.startswith("Interrupted. "))
    assert said.startswith(f"Interrupted. {len(rows)} images:")
    assert str(next(tmp_path.rglob("predictions.csv"))) in said


def test_what_is_finished_stays(model: AnoPLe, tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (40, 30), (number, 90, 90)).save(tmp_path / f"{number}.png")
    with pytest.raises(RuntimeError):
        make_engine(tmp_path, [_Interrupt()]).predict(model, dataset=PredictDataset(tmp_path))
    assert 2 <= len(rows_in(tmp_path)) <= 3


def test_rows_are_on_the_disk_before_the_next_batch(tmp_path: Path) -> None:
    row = {**dict.fromkeys(COLUMNS), "path": "a.png", "verdict": OK, "score": 0.25, "regions": []}
    with TableWriter(tmp_path) as table:
        table.write([row])
        assert len(table.jsonl_path.read_text().splitlines()) == 1
        assert len(table.csv_path.read_text().splitlines()) == 2
        for number in range(20):
            table.write([{**row, "path": f"{number}.png", "score": number / 20}])
        assert [worst["score"] for worst in table.worst] == [0.95, 0.9, 0.85, 0.8, 0.75]


def test_an_image_that_cannot_be_read_is_a_row(model: AnoPLe, tmp_path: Path) -> None:
    images = tmp_path / "parts"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (number, 90, 90)).save(images / f"{number}.png")
    (images / "truncated.png").write_bytes((images / "0.png").read_bytes()[:60])
    (images / "text.png").write_text("no image")
    (images / "empty.png").touch()
    batches = make_engine(tmp_path).predict(model, dataloaders=[ImageList([images])])
    rows = {Path(row["path"]).name: row for row in rows_in(tmp_path)}
    assert len(batches) == 3
    assert len(rows) == 6
    for name in ("truncated.png", "text.png", "empty.png"):
        assert rows[name]["verdict"] == ERROR
        assert f"{name}' cannot be read" in rows[name]["error"]
        assert rows[name]["score"] is None
    assert all(rows[f"{number}.png"]["score"] is not None for number in range(3))


def row_of(path: str) -> dict:
    """A row of an image that is fine."""
    return {**dict.fromkeys(COLUMNS), "path": path, "verdict": OK, "score": 0.25, "regions": [], "error": ""}


def test_predictions_of_one_run_never_overwrite_those_of_another(tmp_path: Path) -> None:
    with TableWriter(tmp_path) as first, TableWriter(tmp_path) as second:
        first.write([row_of("a.png")])
        second.write([row_of("b.png")])
    with TableWriter(tmp_path) as third:
        third.write([row_of("c.png")])
    numbers = ("", "_2", "_3")
    assert [table.number for table in (first, second, third)] == list(numbers)
    found = [rows_of(tmp_path / f"predictions{number}.jsonl") for number in numbers]
    assert [[row["path"] for row in rows] for rows in found] == [["a.png"], ["b.png"], ["c.png"]]


def test_pictures_never_go_among_photographs(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()  # of somebody else
    with TableWriter(tmp_path) as table:
        assert table.number == "_2"
    with pytest.raises(FileExistsError, match="another --output"), TableWriter(tmp_path, append=True):
        pass


_OTHER = """
import sys
from pathlib import Path
from anople_anomalib.deployment.table import COLUMNS, OK, TableWriter
try:
    with TableWriter(Path(sys.argv[1]), append=sys.argv[2] == "append") as table:
        table.write([{**dict.fromkeys(COLUMNS), "path": "b.png", "verdict": OK, "regions": []}])
    print("number", table.number)
except BlockingIOError as error:
    print(error)
"""


def written_by_another_process(folder: Path, how: str) -> str:
    """Let another process write a row; return what it says."""
    done = subprocess.run([sys.executable, "-c", _OTHER, folder, how], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_folder_to_which_another_run_adds_rows_loses_none(tmp_path: Path) -> None:
    with TableWriter(tmp_path, append=True) as first:
        first.write([row_of("a.png")])
        assert written_by_another_process(tmp_path, "new") == "number _2"
        said = written_by_another_process(tmp_path, "append")
        assert "Another run writes to" in said
        assert "--output" in said
        first.write([row_of("c.png")])
    assert [row["path"] for row in rows_of(first.jsonl_path)] == ["a.png", "c.png"]
    assert [row["path"] for row in rows_of(tmp_path / "predictions_2.jsonl")] == ["b.png"]


def test_rows_are_added_to_no_file_that_is_being_written(tmp_path: Path) -> None:
    with TableWriter(tmp_path) as first:
        first.write([row_of("a.png")])
        assert "Another run" in written_by_another_process(tmp_path, "append")
        first.write([row_of("c.png")])
    assert written_by_another_process(tmp_path, "append") == "number"
    assert [row["path"] for row in rows_of(first.jsonl_path)] == ["a.png", "c.png", "b.png"]


def test_a_table_that_stands_alone_is_never_overwritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "predictions.csv").write_text("of,somebody\n")
    with TableWriter(tmp_path) as table:
        assert table.number == "_2"
    with TableWriter(tmp_path, append=True) as table:
        table.write([row_of("a.png")])
    assert "is kept as" in caplog.text
    assert (tmp_path / "predictions_kept_1.csv").read_text() == "of,somebody\n"
    with table.csv_path.open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["a.png"]
    caplog.clear()
    with TableWriter(tmp_path, append=True):
        assert not caplog.text, "its own table"


@pytest.mark.skipif(sys.platform == "win32", reason="limits no files")
def test_a_full_disk_leaves_no_empty_table(tmp_path: Path) -> None:
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
    done = subprocess.run([sys.executable, "-c", full + _OTHER, tmp_path, "new"], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".predictions.lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="moves no open files")
@pytest.mark.parametrize("gone", [("csv",), ("jsonl",), ("csv", "jsonl")])
def test_rows_go_to_new_files_where_those_were_moved_away(tmp_path: Path, gone: tuple[str, ...]) -> None:
    with TableWriter(tmp_path / "out", append=True) as table:
        table.write([row_of("a.png")])
        for ending in gone:
            (tmp_path / "out" / f"predictions.{ending}").rename(tmp_path / f"moved.{ending}")
        table.write([row_of("b.png")])
    kept = [] if "jsonl" in gone else ["a.png"]
    assert [row["path"] for row in rows_of(table.jsonl_path)] == [*kept, "b.png"]
    with table.csv_path.open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [*kept, "b.png"]


@pytest.mark.parametrize("line", [{"path": "foreign.png"}, {"path": "foreign.png", "regions": 3, "score": {}}])
def test_a_line_of_another_program_is_kept(tmp_path: Path, line: dict) -> None:
    with TableWriter(tmp_path, append=True) as table:
        table.write([row_of("a.png")])
    table.jsonl_path.write_text(json.dumps(line) + "\n[]\n" + table.jsonl_path.read_text())
    with TableWriter(tmp_path, append=True) as table:
        table.write([row_of("b.png")])
    assert [row["path"] for row in rows_of(table.jsonl_path)] == ["foreign.png", "a.png", "b.png"]


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_half_line_is_cut_off_and_rows_are_added_after_it(tmp_path: Path, cut: int) -> None:
    with TableWriter(tmp_path, append=True) as table:
        table.write([row_of("1.png"), row_of("2.png")])
    for file in (table.csv_path, table.jsonl_path):
        file.write_bytes(file.read_bytes()[:-cut])
    kept = [row["path"] for row in rows_of(table.jsonl_path)]  # a whole line whose end alone is missing is one
    with TableWriter(tmp_path, append=True) as table:
        table.write([row_of("3.png")])
    table.jsonl_path.write_bytes(b"no json\n" + table.jsonl_path.read_bytes())
    mend(table.jsonl_path)
    rows = [row["path"] for row in rows_of(table.jsonl_path)]
    assert rows == [*kept, "3.png"]
    with table.csv_path.open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == rows


def frames(*images: torch.Tensor) -> DataLoader:
    """Loader of images that come from no file."""
    return DataLoader(list(images), collate_fn=lambda batch: ImageBatch(image=torch.stack(batch)))


def test_a_frame_of_nan_is_no_good_part(root: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1, visualizer=True)
    make_engine(tmp_path).fit(model, datamodule=make_datamodule(root))
    make_engine(tmp_path / "new").predict(model, dataloaders=frames(torch.full((3, 60, 80), float("nan"))))
    (row,) = rows_in(tmp_path / "new")
    assert (row["verdict"], row["score"]) == (ERROR, None)
    assert "no numbers" in row["error"]


def test_frames_without_a_path_are_numbered(root: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1, visualizer=True)
    make_engine(tmp_path).fit(model, datamodule=make_datamodule(root))
    make_engine(tmp_path / "new").predict(model, dataloaders=frames(torch.rand(3, 60, 80), torch.rand(3, 60, 80)))
    assert [row["path"] for row in rows_in(tmp_path / "new")] == ["frame_000001", "frame_000002"]
    assert sorted(path.name for path in (tmp_path / "new").rglob("images/*")) == [
        "frame_000001.png",
        "frame_000002.png",
    ]


def test_a_prediction_takes_none_of_its_own_pictures_and_names_unknown_endings(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(epochs=1, visualizer=True)
    make_engine(tmp_path).fit(model, datamodule=make_datamodule(root))
    images = tmp_path / "images_of_parts"
    images.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (90, 90, 90)).save(images / name)
    Image.new("RGB", (40, 30)).save(images / "c.jfif", format="JPEG")
    make_engine(images).predict(model, dataset=PredictDataset(images))
    assert "c.jfif" in caplog.text
    with pytest.raises(ValueError, match="one of 2 files that end like images"):
        make_engine(images).predict(model, dataset=PredictDataset(images))
    make_engine(images).predict(model, dataloaders=[ImageList([images])])
    tables = sorted(images.rglob("predictions*.jsonl"))
    assert [len(rows_of(table)) for table in tables] == [2, 3]


def test_doubtful_parts_are_looked_at_and_never_count_as_good(root: Path, tmp_path: Path) -> None:
    """Without the option the same rows have two verdicts; an image in the zone has the third with it."""
    model = make_model()
    make_engine(tmp_path / "run").fit(model, datamodule=make_datamodule(root))
    processor = model.require_thresholds()
    processor.normal_scores, processor.normal_only = [0.5, 1.0, 2.0], True  # so wide that everything is in the zone
    images = str(root / "bottle" / "test")
    model.save_checkpoint(tmp_path / "model.ckpt")
    arguments = ["judge", images, "--model", str(tmp_path / "model.ckpt"), "--pictures", "false", "--output"]
    anople([*arguments, str(tmp_path / "plain")])
    anople([*arguments, str(tmp_path / "look"), "--look", "true"])
    plain, looked = (rows_of(tmp_path / name / "predictions.jsonl") for name in ("plain", "look"))
    zone = processor.zone()
    assert {row["verdict"] for row in plain} <= {OK, NOT_OK}
    doubtful = [zone.lower < row["score"] <= zone.upper for row in looked]
    assert any(doubtful)
    for row, before, is_doubtful in zip(looked, plain, doubtful, strict=True):
        assert row["verdict"] == (LOOK if is_doubtful else before["verdict"])
        assert row["score"] == before["score"]


def test_a_row_says_when_and_by_which_versions_it_was_judged(model: AnoPLe, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "a.png")
    make_engine(tmp_path / "run").predict(model, dataloaders=[ImageList([tmp_path / "a.png"])])
    (row,) = rows_in(tmp_path / "run")
    assert datetime.fromisoformat(row["time"]).tzinfo is not None
    for name in ("anople_anomalib", "anomalib", "torch"):
        assert f"{name} {version(name)}" in row["versions"]
    assert row["model"] == model.model_id()
    status = (tmp_path / "a.png").stat()
    assert (row["modified"], row["bytes"]) == (status.st_mtime_ns, status.st_size)
