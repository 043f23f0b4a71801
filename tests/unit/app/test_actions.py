# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the page's controls do, without a page."""

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[app]'")

from anople_anomalib.app.actions import with_uploads
from anople_anomalib.app.messages import AppError


def test_uploads_are_taken_once_and_removed(tmp_path: Path) -> None:
    uploads, other = tmp_path / "uploads", tmp_path / "other.png"
    uploads.mkdir()
    first, second = uploads / "first.png", uploads / "second.png"
    for path in (first, second, other):
        path.touch()
    taken: list[str] = []

    def take(paths: Sequence[Path]) -> None:
        taken.extend(path.name for path in paths)

    with_uploads(take, [str(first)], uploads)
    with_uploads(take, [str(first), str(second), str(second), str(other)], uploads)
    with_uploads(take, [str(first), str(second)], uploads)  # the page has sent them once more
    assert taken == ["first.png", "second.png", "other.png"]
    assert not list(uploads.iterdir())
    assert other.exists()


def test_what_is_refused_is_removed_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()

    def refuse(paths: Sequence[Path]) -> None:
        raise AppError(paths[0].name)

    with pytest.raises(AppError, match=r"a\.png"):
        with_uploads(refuse, str(tmp_path / "a.png"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_file_is_said(tmp_path: Path) -> None:
    given: list[Sequence[Path]] = []
    with_uploads(given.append, None, tmp_path)
    assert given == [[]]  # whoever takes them says that there is none
