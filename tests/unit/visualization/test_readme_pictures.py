# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The pictures of the README, and the program that makes them."""

import re
from pathlib import Path

import pytest
from PIL import Image

import readme_pictures

LARGEST = 300_000  # bytes of all pictures together


def pictures_of(repository: Path) -> list[str]:
    return re.findall(r"!\[[^\]]+\]\((docs/images/[^)]+)\)", (repository / "README.md").read_text(encoding="utf-8"))


def test_the_pictures_of_the_readme_are_there_and_small(repository: Path) -> None:
    pictures = pictures_of(repository)
    assert len(pictures) >= 2
    assert sum((repository / picture).stat().st_size for picture in pictures) <= LARGEST
    assert {repository / picture for picture in pictures} == set((repository / "docs" / "images").iterdir())


def test_the_program_makes_the_pictures_of_the_readme(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert readme_pictures.main(["--output", str(tmp_path / "images"), "--epochs", "1"]) == 0
    made = {path.name: Image.open(path).size for path in (tmp_path / "images").iterdir()}
    kept = {Path(picture).name: Image.open(repository / picture).size for picture in pictures_of(repository)}
    assert made.keys() == kept.keys()
    for name, size in made.items():
        assert size == pytest.approx(kept[name], abs=2), name  # versions of matplotlib differ by a pixel
    said = capsys.readouterr().out
    assert all(name in said for name in made)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
