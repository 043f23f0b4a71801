# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A journal tells of every line that is not as it was written."""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from anople_anomalib.commands.main import main
from anople_anomalib.deployment.journal import add_line, check, journal_of
from anople_anomalib.utils.files import digest_of


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Five lines on a checkpoint."""
    file = tmp_path / "part.ckpt"
    for number in range(5):
        file.write_bytes(bytes([number]))
        add_line(
            journal_of(file), action="threshold", reason=f"Größe {number}", file=file.name, file_sha256=digest_of(file)
        )
    return journal_of(file)


def resealed(line: str) -> str:
    """A line that somebody has changed, with the hash of its new text."""
    text = line.replace("threshold", "teach").partition(', "sha256": "')[0]
    return f'{text}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"}}'


Change = Callable[[list[str]], list[str]]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: [*lines[:2], lines[2].replace("Größe", "Grösse"), *lines[3:]], "Line 3 was changed"),
        (lambda lines: [*lines[:4], lines[4].replace("threshold", "teach")], "Line 5 was changed"),
        (lambda lines: [*lines[:4], lines[4][:-1]], "Line 5 was changed"),
        (lambda lines: ["no json", *lines[1:]], "Line 1 was changed"),
        (lambda lines: lines[1:], "Line 1 was removed: line 2 stands in its place"),
        (lambda lines: lines[:2] + lines[3:], "Line 3 was removed: line 4 stands in its place"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "Line 2 was moved: it is line 3"),
        (lambda lines: lines[::-1], "Line 1 was moved: it is line 5"),
        (lambda lines: [lines[0], resealed(lines[1]), *lines[2:]], "Line 3 does not belong here"),
        (lambda lines: lines[:4], "'part.ckpt' is not the file of line 4"),
        (lambda _: [], "It is empty: all lines were cut off"),
    ],
)
def test_the_first_fault_is_told(journal: Path, capsys: pytest.CaptureFixture[str], change: Change, fault: str) -> None:
    lines = journal.read_text(encoding="utf-8").splitlines()
    journal.write_text("".join(f"{line}\n" for line in change(lines)), encoding="utf-8")
    assert main(["report", "--verify", str(journal)]) == 1
    assert fault in capsys.readouterr().err


def test_a_line_on_a_checkpoint_of_its_own_is_missed(journal: Path) -> None:
    other = journal.with_name("other.ckpt")
    other.write_bytes(b"other")
    add_line(journal, action="teach", file=other.name, file_sha256=digest_of(other))
    (journal.with_name("copy.ckpt")).write_bytes(b"other")
    assert not check(journal).fault, "a copy is the model of the line that describes it"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert check(journal).fault.startswith("'copy.ckpt' is in no line: lines were cut off at the end")


def test_all_is_well(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--verify", str(journal)]) == 0
    told = capsys.readouterr().out
    assert "It is as it was written: 5 lines" in told
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["sha256"] in told
    assert [line["previous"] for line in lines[1:]] == [line["sha256"] for line in lines[:-1]]
    assert [line["reason"] for line in lines] == [f"Größe {number}" for number in range(5)]


def test_a_half_line_of_a_power_failure_gives_way(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-20])
    add_line(journal, action="undo")
    assert check(journal).lines == 5


def test_those_who_write_at_once_wait_for_each_other(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    threads = [threading.Thread(target=add_line, args=(journal,), kwargs={"action": str(each)}) for each in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check(journal)[::2] == (20, "")


def test_a_missing_journal_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--verify", str(tmp_path / "journal.jsonl")]) == 1
    assert "There is no journal" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report"])
    assert "--verify journal.jsonl" in capsys.readouterr().err
