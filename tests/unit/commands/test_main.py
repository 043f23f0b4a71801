# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anople``: what it imports, what it says, and how it ends."""

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import Namespace
from PIL import Image

from anople_anomalib.commands import models
from anople_anomalib.commands.judge import is_exported
from anople_anomalib.commands.main import COMMANDS, main
from anople_anomalib.commands.models import divide
from anople_anomalib.commands.terminal import TRACEBACK, UsageError, allow_pixels, quiet_trainer, say_error
from anople_anomalib.data.image_reading import open_image
from anople_anomalib.pipeline.results import ResultsTable
from helpers.result_rows import job

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = "{'torch', 'anomalib', 'lightning', 'open_clip', 'timm', 'cv2'} & {*sys.modules}"
SHOWS = f"""
import sys
from anople_anomalib.commands.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("heavy:", {HEAVY}, "code:", code)
"""


def last_line(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code of the command and its last line, which is all but a hint."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err.splitlines()
    assert len(said) <= 2, said
    return code, said[-1]


def test_help_imports_nothing_heavy(run_python: Run) -> None:
    every = "".join(f"sys.argv[1:] = {[*name, '--help']}{SHOWS}" for name in ([], *([name] for name in COMMANDS)))
    process = run_python("-c", f"import sys\n{every}")
    assert process.stdout.count("heavy: set() code: 0") == process.stdout.count("usage: anople") == 1 + len(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "none"],
        ["page", "--model", "none"],
        ["threshold", "--model", "none", "--output", "x", "--image_threshold", "1"],
    ],
)
def test_a_mistake_costs_no_import_of_torch(run_python: Run, tmp_path: Path, arguments: list[str]) -> None:
    process = run_python("-c", SHOWS, *arguments, cwd=tmp_path)
    assert process.stdout.splitlines()[-1] == "heavy: set() code: 1"
    assert process.stderr.splitlines()[-1].startswith("error: ")


def test_a_report_imports_no_torch(run_python: Run, tmp_path: Path) -> None:
    for shots in (1, 2):
        ResultsTable(tmp_path).add(job(k_shot=shots, image_AUROC=0.9))
    process = run_python("-c", SHOWS, "report", tmp_path)
    assert process.stdout.splitlines()[-1] == "heavy: set() code: 0", process.stderr
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["jugde"], 2, "error: There is no command 'jugde' (did you mean 'judge'?): give one of teach, judge,"),
        (["teach", "x", "--shotz", "4"], 2, "error: There is no option --shotz (did you mean '--shots'?): give one of"),
        (["teach", "x", "--preset", "ofline"], 2, "error: There is no preset 'ofline' (did you mean 'offline'?)"),
        (["teach", "no_folder"], 1, "error: There is no image or folder 'no_folder': check the path."),
        (
            ["threshold", "--model", "x", "--output", "y"],
            2,
            "error: Give --images, good parts",
        ),
        (["compare", "--config", "none.yaml"], 1, "error: There is no file 'none.yaml': check --config."),
    ],
)
def test_errors_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    ended, said = last_line(capsys, arguments)
    assert ended == code
    assert said.startswith(message)


def test_faults_of_the_program_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    say_error(KeyError("x"))
    assert "a fault of this program, KeyError" in capsys.readouterr().err.splitlines()[-1]
    say_error(ValueError("two\n  lines"))
    assert capsys.readouterr().err.splitlines()[-1] == "error: two lines"


def test_tracebacks_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(FileNotFoundError):
        main(["compare", "--config", "none.yaml"])


def good_parts(folder: Path, number: int) -> list[Path]:
    """Photographs of good parts."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(number):
        pixels = rng.integers(90, 150, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("number", "shots", "expected"),
    [(1, None, (1, 0)), (7, None, (7, 0)), (8, None, (4, 4)), (9, 2, (2, 7))],
)
def test_no_photograph_is_lost(tmp_path: Path, number: int, shots: int | None, expected: tuple[int, int]) -> None:
    files = good_parts(tmp_path / "good", number)
    learned, others = divide(files, shots, 0, "part")
    assert (len(learned), len(others)) == expected
    assert sorted([*learned, *others]) == files


@pytest.mark.parametrize("shots", [0, 6])
def test_shots_are_as_many_as_there_are_parts_at_most(tmp_path: Path, shots: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the number of good parts, 5, got {shots}"):
        divide(good_parts(tmp_path / "good", 5), shots, 0, "part")


@pytest.mark.slow
def test_teach_says_where_every_image_went_and_judge_writes_a_row_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = good_parts(tmp_path / "cap" / "good", 9)
    (files[0].parent / "notes.txt").write_text("none")
    monkeypatch.chdir(tmp_path)
    defect = ["--smallest-defect", "40"]
    assert main(["teach", "cap/good", "--epochs", "1", "--accelerator", "cpu", *defect]) == 0
    said = capsys.readouterr().out
    assert all(file.name in said for file in files)
    assert "1 files are left out" in said
    assert re.search(
        r"Defects of 40 pixels: images are seen at 320 x 320 pixels, at most .* s and\n21 MB an image", said
    )
    assert "anople judge FOLDER --model cap.ckpt" in said
    assert main(["report", "--verify", "journal.jsonl"]) == 0
    (line,) = map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
    assert line["images"].keys() == {file.name for file in files}
    assert len(line["shots"]) == 4
    assert main(["teach", "cap/good"]) == 1  # nothing is overwritten
    image = Image.open(files[0])
    (tmp_path / "new").mkdir()
    for name, kind in (("a.png", "PNG"), ("b.jfif", "JPEG"), ("Teil_Ø40.tga", "TGA"), ("e.gif", "GIF")):
        image.save(tmp_path / "new" / name, format=kind)
    judge = ["judge", "new", "--model", "cap.ckpt", "--accelerator", "cpu"]
    assert main(judge) == 0
    for name in ("broken.png", "phone.heic"):  # a part that is not judged is no success, whatever its ending
        (tmp_path / "new" / name).write_text("no image")
    assert main(judge) == 3
    tables = [(tmp_path / "verdicts" / f"predictions{number}.csv").read_text().splitlines() for number in ("", "_2")]
    assert [len(table) - 1 for table in tables] == [4, 6]
    assert len(list((tmp_path / "verdicts" / "images").iterdir())) == 4


def test_a_line_scan_is_opened_when_it_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = good_parts(tmp_path / "good", 1)[0]  # 64 x 64
    with pytest.raises(ValueError, match=r"larger than Pillow opens unasked.*--megapixels.*--tiles auto"):
        open_image(file)
    allow_pixels(0.01)
    assert open_image(file).size == (64, 64)


@pytest.mark.parametrize(
    "command", [["teach", "parts"], ["threshold", "--image_threshold", "1"], ["learn-more", "parts"]]
)
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("folder", "is a folder: name a file in it|exists already: give another --output"),
        ("file/model.ckpt", r"cannot be written \(Not a directory: .*take another place"),
        ("model.onnx", "ends as another format does: name it 'model.ckpt'"),
        ("photo.PNG", "ends as another format does: name it 'photo.ckpt'"),
    ],
)
def test_an_impossible_output_is_told_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    output: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", str)
    Path("folder").mkdir()
    Path("file").touch()
    model = [] if command[0] == "teach" else ["--model", "none.ckpt"]
    code, said = last_line(capsys, [*command, *model, "--output", output])
    assert code == 1
    assert re.search(message, said), said


def test_a_study_and_a_journal_need_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "study")
    for arguments in (["qualify", str(tmp_path), "--model", "x.ckpt", "--output", place], ["page", "--journal", place]):
        code, said = last_line(capsys, arguments)
        assert code == 1
        assert "cannot be written (Not a directory" in said


def test_an_accelerator_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"--accelerator nonsense cannot be used here .*: give auto, or cpu\."):
        quiet_trainer("nonsense")
    with pytest.raises(UsageError, match="leave it out"):
        is_exported(Namespace(model=Path("model.onnx"), look=None, white=None, accelerator="gpu"))
