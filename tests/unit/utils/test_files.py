# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files that appear complete or not at all."""

import errno
import os
from pathlib import Path

import pytest

from anople_anomalib.utils.files import files_below, folder_written_whole, make_folder, written_whole


def test_a_finished_file_gets_its_name(tmp_path: Path) -> None:
    with written_whole(tmp_path / "new" / "file.txt") as temporary:
        temporary.write_text("all")
        assert not (tmp_path / "new" / "file.txt").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]
    assert (tmp_path / "new" / "file.txt").read_text() == "all"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_halfway() -> None:
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), folder_written_whole(tmp_path / "folder") as temporary:
        [temporary.mkdir() for _ in range(2)]
    assert not list(tmp_path.iterdir())
    with folder_written_whole(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir(parents=True)
        assert not (tmp_path / "folder").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with folder_written_whole(tmp_path / "folder") as temporary:  # another process was faster
        temporary.mkdir()
        (temporary / "late").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "inner"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"The folder '.*' cannot be made \(.*\): give another --output"):
            make_folder(place)


def test_files_below_are_found_through_links_and_once(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "parts", tmp_path / "elsewhere"
    for place in (folder / "own", elsewhere / "deep"):
        place.mkdir(parents=True)
        (place / "0.png").touch()
    for name, target in {"loop": folder, "another": folder / "own", "out": elsewhere}.items():
        (folder / name).symlink_to(target)
    (elsewhere / "back").symlink_to(elsewhere)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    found = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    assert found == ["gone.png", "out/deep/0.png", "own/0.png"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refused(place: str | Path) -> object:
        if Path(place).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(PermissionError, match="locked"):
        files_below(tmp_path)
