# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The journal of models: a line for every teaching, correction and threshold, with its reason.

``journal.jsonl`` lies beside the checkpoints and only grows. Each line has a number, the SHA-256 of its own text and
that of the line before, so that one that was changed, removed or moved is found. Lines that were cut off at the end are
found by a checkpoint beside it that is not as the last line on it says, or that no line describes, or by whoever has
noted the last hash, as a study has.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from anople_anomalib.utils.files import digest_of
from anople_anomalib.utils.lines import cut_half_line
from anople_anomalib.utils.version import __version__

_START = "0" * 64  # in place of the hash of a line before the first
_SEAL = ', "sha256": "'


class Checked(NamedTuple):
    """The state of a journal."""

    lines: int
    last: str  # SHA-256 of the last line
    fault: str  # the first one, in one sentence; empty if there is none

    def __str__(self) -> str:
        """Say all that in one sentence."""
        if self.fault:
            return f"It is not as it was written. {self.fault}"
        lines = f"{self.lines} line{'' if self.lines == 1 else 's'}"
        return f"It is as it was written: {lines}, the last one with the SHA-256 {self.last}."


def journal_of(model: Path) -> Path:
    """Return the journal beside a checkpoint."""
    return model.with_name("journal.jsonl")


def add_line(journal: Path, **entries: Any) -> None:
    """Add a line of plain data to a journal, which is made if missing; several processes may do so."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(journal.with_name(f".{journal.name}.lock")):
        if journal.is_file():
            cut_half_line(journal)
        with journal.open("a+b") as stream:
            stream.seek(0)
            lines = stream.read().splitlines()
            head = {"number": len(lines) + 1, "previous": _hash_in(lines[-1]) if lines else _START}
            head |= {"time": datetime.now().astimezone().isoformat(timespec="milliseconds"), "version": __version__}
            text = json.dumps({**head, **entries}, ensure_ascii=False)[:-1]
            stream.write(f'{text}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode())


def check(journal: Path) -> Checked:
    """Look for the first line that was changed, removed or moved, and for checkpoints that no line describes."""
    if not journal.is_file():
        msg = f"There is no journal '{journal}': it lies beside the checkpoints that anople has written."
        raise FileNotFoundError(msg)
    lines = journal.read_bytes().splitlines()
    fault = _first_fault(lines) or _other_checkpoint(lines, journal.parent)
    return Checked(len(lines), _hash_in(lines[-1]) if lines else _START, fault)


def _first_fault(lines: list[bytes]) -> str:
    if not lines:
        return "It is empty: all lines were cut off."
    numbers, before = [_number_in(line) for line in lines], _START
    for place, (line, number) in enumerate(zip(lines, numbers, strict=True), start=1):
        text, _, _ = line.rpartition(_SEAL.encode())
        if not number or line != text + f'{_SEAL}{hashlib.sha256(text).hexdigest()}"}}'.encode():
            return f"Line {place} was changed after it was written."
        if number != place and place in numbers[place:]:
            return f"Line {place} was moved: it is line {numbers.index(place, place) + 1} of the file now."
        if number != place:
            return f"Line {place} was removed: line {number} stands in its place."
        if json.loads(line)["previous"] != before:
            return f"Line {place} does not belong here: it was written after another line {place - 1}."
        before = _hash_in(line)
    return ""


def _other_checkpoint(lines: Iterable[bytes], folder: Path) -> str:
    """Return a sentence on a checkpoint that is not as it was described last, or nowhere; empty if there is none."""
    known = {content["file"]: content for content in map(json.loads, lines) if "file" in content}
    described = {content["file_sha256"] for content in known.values()}
    for file in sorted({*folder.glob("*.ckpt"), *filter(Path.is_file, map(folder.joinpath, known))}):
        if file.name not in known and digest_of(file) not in described:
            return f"'{file.name}' is in no line: lines were cut off at the end, or another program has written it."
        if file.name in known and digest_of(file) != known[file.name]["file_sha256"]:
            line = known[file.name]["number"]
            return f"'{file.name}' is not the file of line {line}: it was changed, or later lines were cut off."
    return ""


def _hash_in(line: bytes) -> str:
    return line.rpartition(_SEAL.encode())[2][:-2].decode(errors="replace")


def _number_in(line: bytes) -> int:
    """Return the number of a line; 0 for one that has none."""
    try:
        content = json.loads(line)
    except ValueError:
        return 0
    return content["number"] if isinstance(content, dict) and isinstance(content.get("number"), int) else 0
