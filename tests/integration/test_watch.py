# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""``anople watch`` in a process of its own, with files as cameras and networks write them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from anople_anomalib.commands.main import main as anople
from helpers.graphs import brightness_model
from helpers.training import train_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process")]

LIGHT = "import sys; from anople_anomalib.commands.main import main; sys.exit(main())"
PROGRAM = LIGHT.replace("sys;", "sys, helpers.miniature;", 1)
"""The command, which knows the miniature."""
TIMEOUT = 120.0


@pytest.fixture(scope="module")
def checkpoint(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a miniature."""
    path = tmp_path_factory.mktemp("training") / "model.ckpt"
    train_model(images, path.parent, visualizer=True).save_checkpoint(path)
    return path


@contextmanager
def watching(
    checkpoint: Path, folder: Path, output: Path, *more: str, program: str = PROGRAM
) -> Iterator[subprocess.Popen[str]]:
    """Run the command; it is killed if a test fails."""
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    given = ["watch", folder, "--model", checkpoint, "--output", output, "--accelerator", "cpu", *more]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, given)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def rows_of(output: Path) -> list[dict]:
    """Rows that both files have."""
    path = output / "predictions.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    with path.with_suffix(".csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)][: len(rows)] == [row["path"] for row in rows]
    return rows


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def names_of(output: Path) -> list[str]:
    return [Path(row["path"]).name for row in rows_of(output)]


def test_images_are_judged_as_they_come(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    good, folder, output = images / "bottle" / "test" / "good", tmp_path / "incoming", tmp_path / "verdicts"
    there, other, *_ = sorted(good.iterdir())
    folder.mkdir()
    (folder / "0.png").write_bytes(there.read_bytes())
    with watching(checkpoint, folder, output) as process:
        wait_until(lambda: names_of(output) == ["0.png"])
        content = other.read_bytes()
        with (folder / "1.png").open("wb") as file:  # over a slow line: it stops for longer than a file settles
            for part in (content[: len(content) // 2], content[len(content) // 2 :]):
                file.write(part)
                file.flush()
                time.sleep(1.5)
        wait_until(lambda: names_of(output) == ["0.png", "1.png"])
        (folder / "lot").mkdir()
        (folder / "lot" / "0.png").write_bytes(content)  # of the same name as another one
        (folder / "broken.png").write_bytes(content[:40])
        Image.new("I;16", (40, 30), 9000).save(folder / "deep.png")
        (folder / ".hidden.png").write_bytes(content)
        wait_until(lambda: len(rows_of(output)) == 5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 3, said  # an image could not be judged
    rows = {str(Path(row["path"]).relative_to(folder)): row for row in rows_of(output)}
    assert rows.keys() == {"0.png", "1.png", "lot/0.png", "broken.png", "deep.png"}
    assert rows["broken.png"]["verdict"] == rows["deep.png"]["verdict"] == "ERROR"  # 12 bits without their white
    assert "cannot be read" in rows["broken.png"]["error"]
    assert "--white" in rows["deep.png"]["error"]
    assert rows["1.png"]["score"] == rows["lot/0.png"]["score"]
    assert sorted(path.relative_to(output / "images").as_posix() for path in (output / "images").rglob("*.png")) == [
        "0.png", "1.png", "lot/0.png",
    ]  # fmt: skip
    lines = said.splitlines()
    assert any(line.startswith("5 images: ") and line.endswith("2 could not be judged.") for line in lines), said
    assert sum(str(folder / "1.png") in line for line in lines) >= 1  # as it is judged
    assert "Traceback" not in said

    (folder / "2.png").write_bytes(content)  # came while nothing watched
    with watching(checkpoint, folder, output, "--polling", "true") as process:
        wait_until(lambda: len(rows_of(output)) == 6)
        (folder / "3.png").write_bytes(content)
        wait_until(lambda: len(rows_of(output)) == 7)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, said
    assert names_of(output)[5:] == ["2.png", "3.png"]


def test_an_exported_model_watches_without_torch(tmp_path: Path) -> None:
    folder, output, golden = tmp_path / "incoming", tmp_path / "verdicts", tmp_path / "golden"
    for place, color in ((golden / "good", "black"), (golden / "bad", "white"), (folder, "white")):
        place.mkdir(parents=True)
        Image.new("RGB", (8, 8), color).save(place / "0.png")
    heavy = "{'torch', 'anomalib', 'lightning', 'pandas', 'matplotlib', 'scipy', 'cv2'} & {*sys.modules}"
    program = LIGHT.replace("sys.exit(main())", f"code = main(); print({heavy}, code)")
    with watching(brightness_model(tmp_path), folder, output, "--golden", str(golden), program=program) as process:
        wait_until(lambda: names_of(output) == ["0.png"])
        (folder / "lot").mkdir()
        Image.new("RGB", (8, 8), "black").save(folder / "lot" / "1.png")
        (folder / "broken.png").write_bytes(b"no image")
        wait_until(lambda: len(rows_of(output)) == 3)
        process.send_signal(signal.SIGINT)
        said, wrong = process.communicate(timeout=TIMEOUT)
    assert said.splitlines()[-1] == "set() 3", said + wrong
    rows = {Path(row["path"]).name: row for row in rows_of(output)}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "0.png": "NOT OK",
        "1.png": "OK",
        "broken.png": "ERROR",
    }
    assert {row["model"] for row in rows.values()} == {"brightness"}
    assert all(row["bytes"] == Path(row["path"]).stat().st_size for row in rows.values())
    assert {path.name for path in (output / "images").rglob("*.png")} == {"0.png", "1.png"}
    assert (output / "images" / "lot" / "1.png").is_file()
    assert {row["verdict"] for row in rows_of(output / "golden")} == {"OK", "NOT OK"}
    assert "calibration" in (output / "drift.jsonl").read_text()


def test_a_second_watch_is_refused_and_other_rows_go_beside(tmp_path: Path) -> None:
    folder, output, model = tmp_path / "incoming", tmp_path / "verdicts", brightness_model(tmp_path)
    folder.mkdir()
    Image.new("RGB", (8, 8), "black").save(folder / "0.png")
    with watching(model, folder, output, program=LIGHT) as process:
        wait_until(lambda: len(rows_of(output)) == 1)
        with watching(model, folder, output, program=LIGHT) as second:
            _, said = second.communicate(timeout=TIMEOUT)
        assert second.returncode == 1
        assert "Another run writes to" in said.splitlines()[-1]
        assert anople(["judge", str(folder), "--model", str(model), "--output", str(output)]) == 0
        Image.new("RGB", (8, 8), "black").save(folder / "1.png")
        wait_until(lambda: len(rows_of(output)) == 2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, said
    assert names_of(output) == ["0.png", "1.png"]
    assert len((output / "predictions_2.jsonl").read_text().splitlines()) == 1


def test_results_in_the_watched_folder_are_refused(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for folder, output, message in (
        (tmp_path, tmp_path / "verdicts", "lies in the watched folder"),
        (tmp_path / "none", tmp_path / "verdicts", "There is no folder"),
    ):
        process = run_python(
            "-m", "anople_anomalib.commands.main", "watch", folder, "--model", "x.ckpt", "--output", output
        )
        assert process.returncode not in {0, 3}
        assert message in process.stderr.splitlines()[-1]


@pytest.fixture
def golden(images: Path, tmp_path: Path) -> Path:
    """A good part as in training, and one that no threshold lets pass."""
    folder = tmp_path / "golden"
    (folder / "good").mkdir(parents=True)
    (folder / "bad").mkdir()
    shot = next(iter(sorted((images / "bottle" / "train" / "good").iterdir())))
    (folder / "good" / "0.png").write_bytes(shot.read_bytes())
    with Image.open(shot) as image:
        noise = Image.effect_noise(image.size, 120).convert("RGB")
    noise.save(folder / "bad" / "0.png")
    return folder


def test_golden_parts_are_judged_again_and_the_watch_goes_on(checkpoint: Path, golden: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "incoming", tmp_path / "verdicts"
    folder.mkdir()
    arguments = ["--golden", str(golden), "--golden_hours", "0.001"]  # 4 seconds
    with watching(checkpoint, folder, output, *arguments) as process:
        wait_until(lambda: (output / "golden" / "predictions_2.jsonl").is_file())
        (folder / "0.png").write_bytes((golden / "good" / "0.png").read_bytes())
        wait_until(lambda: names_of(output) == ["0.png"])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, said
    assert {row["verdict"] for row in rows_of(output / "golden")} == {"OK", "NOT OK"}
    (row,) = rows_of(output)
    assert row["model"] == json.loads((output / "golden" / "scores.json").read_text())["model"]
    assert [json.loads(line)["kind"] for line in (output / "drift.jsonl").read_text().splitlines()] == ["calibration"]


def test_a_golden_part_with_another_verdict_or_score_ends_the_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output, golden = tmp_path / "incoming", tmp_path / "verdicts", tmp_path / "golden"
    folder.mkdir()
    for kind in ("good", "bad"):  # both look like the good one
        (golden / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8), "dimgray").save(golden / kind / "0.png")
    command = ["watch", str(folder), "--model", str(brightness_model(tmp_path)), "--golden", str(golden), "--output"]
    assert anople([*command, str(output)]) == 4
    said = capsys.readouterr().err
    assert "is OK, and is known as bad" in said
    assert "Nothing more is judged" in said
    (row,) = rows_of(output)
    assert (Path(row["path"]), row["verdict"]) == (golden / "bad" / "0.png", "ERROR")
    assert (output / "golden" / "images" / "bad" / "0.png").is_file()
    assert not (output / "golden" / "scores.json").exists()

    other = tmp_path / "other"
    (other / "golden").mkdir(parents=True)
    Image.new("RGB", (8, 8), "white").save(golden / "bad" / "0.png")
    (score,) = {row["score"] for row in rows_of(output / "golden")}
    content = {"model": row["model"], "scores": {str(golden / "good" / "0.png"): 2 * score}}
    (other / "golden" / "scores.json").write_text(json.dumps(content))
    assert anople([*command, str(other)]) == 4
    assert "and had" in capsys.readouterr().err
