# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The images of the README, and the program that makes them."""

import re
from pathlib import Path

import pytest
from PIL import Image

import readme_figures

LARGEST = 300_000  # bytes of all images together


def images_linked_in(repository: Path) -> set[str]:
    """Images of the README and of the pages, by their path in the repository."""
    pages = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
    links = [link for page in pages for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    return {f"docs/{link.removeprefix('docs/')}" for link in links if "images/" in link}


def test_the_images_of_the_readme_are_there_and_small(repository: Path) -> None:
    images = images_linked_in(repository)
    assert len(images) >= 2
    assert sum((repository / image).stat().st_size for image in images) <= LARGEST
    assert {repository / image for image in images} == set((repository / "docs" / "images").iterdir())


@pytest.mark.slow
def test_the_program_makes_the_images_of_the_readme(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert readme_figures.main(["--output", str(tmp_path / "images"), "--epochs", "1"]) == 0
    made = {path.name: Image.open(path).size for path in (tmp_path / "images").iterdir()}
    linked = {Path(image).name: Image.open(repository / image).size for image in images_linked_in(repository)}
    kept = {name: size for name, size in linked.items() if not name.startswith("app_")}  # those, the browser takes
    assert made.keys() == kept.keys()
    for name, size in made.items():
        assert size == pytest.approx(kept[name], abs=2), name  # versions of matplotlib differ by a pixel
    said = capsys.readouterr().out
    assert all(name in said for name in made)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
