# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the pages under docs/ name is there."""

import re
from pathlib import Path

import pytest

import anople_anomalib

PACKAGE = Path(anople_anomalib.__file__).parent
REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
FOLDERS = {"anople_anomalib", "benchmarks", "configs", "docs", "examples", "notebooks", "tests", "tools"}


def quoted(page: Path) -> list[str]:
    """What stands in backquotes, code blocks left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def paths_in(page: Path) -> list[str]:
    """Quoted paths of the repository; a command's arguments count, too."""
    words = [word for quote in quoted(page) for word in quote.split()]
    return [word for word in words if "/" in word and word.split("/")[0] in FOLDERS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    missing = [path for path in paths_in(page) if not (REPOSITORY / path).exists()]
    assert not missing


def test_paths_of_the_architecture_exist() -> None:
    paths = [quote for quote in quoted(ARCHITECTURE) if re.fullmatch(r"[\w./-]+(/|\.py)", quote)]
    missing = [path for path in paths if not (PACKAGE / path).exists() and not (REPOSITORY / path).exists()]
    assert not missing
    assert len(set(paths)) > 30


def test_functions_of_the_architecture_exist() -> None:
    """Those written as ``name()`` or ``Class.name()`` are defined in the package."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    names = {found[1] for quote in quoted(ARCHITECTURE) if (found := re.fullmatch(r"(?:\w+\.)?(\w+)\(\)", quote))}
    assert names
    assert names <= set(re.findall(r"^ *def (\w+)", source, flags=re.MULTILINE))


def test_rooms_of_the_architecture_are_all() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert {f"{room}/" for room in rooms} <= set(quoted(ARCHITECTURE))


def test_paths_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`tests/unit/test_docs.py` and `python tools/a.py --x 1`, not `results/a`\n```\n`docs/no`\n```\n")
    assert paths_in(page) == ["tests/unit/test_docs.py", "tools/a.py"]
