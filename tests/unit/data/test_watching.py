# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A folder that images keep coming into: every picture that was whole is yielded once, whatever else happens there."""

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from anople_anomalib.data import watching
from anople_anomalib.data.image_series import ImageList, WatchedFolder
from anople_anomalib.data.watching import FolderWatch, State, Unreadable
from anople_anomalib.utils.files import digest_of

SOAK = "ANOPLE_SOAK_SECONDS"
"""Environment variable for a soak test of minutes."""
TIMEOUT = 60.0


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files settle sooner than in production."""
    for name, seconds in {"SETTLED": 0.2, "GIVEN_UP": 0.8, "_RESCAN": 1.0}.items():
        monkeypatch.setattr(watching, name, seconds)


def picture(path: Path, number: int = 0) -> Path:
    """A picture that is known by its width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (number + 1, 2), (90, 90, 90)).save(path, format="PNG")
    return path


class Watch:
    """Collects what a folder yields.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: WatchedFolder) -> None:
        self.numbers: list[int] = []
        self.paths: list[Path] = []
        self.errors: list[Unreadable] = []
        self.failure: BaseException | None = None
        self._folder = folder
        folder.report = self.errors.append
        self._thread = threading.Thread(target=self._collect)

    def _collect(self) -> None:
        try:
            for batch in self._folder:
                self.numbers.append(batch.image.shape[-1] - 1)
                self.paths.append(Path(batch.image_path[0]))
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            self.failure = error

    def wait_until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not true():
            assert self.failure is None
            assert time.monotonic() < end, (sorted(self.numbers), self.errors)
            time.sleep(0.02)


@contextmanager
def watched(folder: Path, *arguments: object, **options: bool) -> Iterator[Watch]:
    folder.mkdir(parents=True, exist_ok=True)
    series = WatchedFolder(FolderWatch(folder, *arguments, **options))
    watch = Watch(series)
    watch._thread.start()
    try:
        yield watch
    finally:
        series.watch.stop()
        watch._thread.join(TIMEOUT)
    assert watch.failure is None


def test_a_folder_that_vanishes_while_it_is_listed_is_no_end(tmp_path: Path) -> None:
    series, stop = WatchedFolder(FolderWatch(tmp_path)), threading.Event()

    def camera() -> None:
        while not stop.is_set():
            folders = [tmp_path / f"part_{number}" for number in range(20)]
            for folder in folders:
                folder.mkdir()
            for folder in folders:
                folder.rmdir()

    thread = threading.Thread(target=camera)
    thread.start()
    try:
        for _ in range(300):
            assert series.watch._files() == {}
    finally:
        stop.set()
        thread.join()


def test_the_watched_folder_itself_may_go_and_come_again(tmp_path: Path) -> None:
    with watched(tmp_path / "in") as watch:
        picture(tmp_path / "in" / "0.png", 1)
        watch.wait_until(lambda: watch.numbers == [1])
        shutil.rmtree(tmp_path / "in")
        time.sleep(0.5)
        picture(tmp_path / "in" / "0.png", 2)
        watch.wait_until(lambda: watch.numbers == [1, 2])


@pytest.mark.parametrize(
    "name", ["Teil_Ø40.png", "ñ/Gehäuse.PNG", "テスト.png", "a b'c\".png", os.fsdecode(b"teil_\xfc.png")]
)
def test_every_name_is_judged(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "in" / name, 3)
    with watched(tmp_path / "in") as watch:
        watch.wait_until(lambda: watch.numbers == [3])
    assert [batch.image_path[0] for batch in ImageList([tmp_path / "in"])] == [str(tmp_path / "in" / name)]


def test_a_judged_name_with_another_part_is_judged_however_old_its_file_is(tmp_path: Path) -> None:
    file = picture(tmp_path / "in" / "0.png", 1)
    status = file.stat()
    known = {str(file): State(status.st_mtime_ns, status.st_size)}
    assert FolderWatch(tmp_path / "in", known)._judged  # the same file: known
    picture(file, 700)
    os.utime(file, (0, 0))
    with watched(tmp_path / "in", known) as watch:
        watch.wait_until(lambda: watch.numbers == [700])


def test_a_moved_picture_is_judged_once_and_a_copy_again(tmp_path: Path) -> None:
    first = picture(tmp_path / "in" / "latest.png", 1)
    with watched(tmp_path / "in") as watch:
        watch.wait_until(lambda: watch.numbers == [1])
        (tmp_path / "in" / "archive").mkdir()
        first.rename(tmp_path / "in" / "archive" / "1.png")
        picture(first, 2)
        watch.wait_until(lambda: watch.numbers == [1, 2])
        shutil.copy2(first, tmp_path / "in" / "copy.png")
        watch.wait_until(lambda: watch.numbers == [1, 2, 2])


def test_heat_maps_of_a_run_that_writes_into_the_folder_are_not_judged(tmp_path: Path) -> None:
    (tmp_path / "in" / "run").mkdir(parents=True)
    (tmp_path / "in" / "run" / "predictions.jsonl").touch()
    (tmp_path / "in" / "run" / "images").mkdir()
    with watched(tmp_path / "in") as watch:
        picture(tmp_path / "in" / "first.png", 1)
        watch.wait_until(lambda: watch.numbers == [1])  # from now on changes are told, not only listed
        picture(tmp_path / "in" / "run" / "images" / "0.png", 2)
        time.sleep(3 * watching.SETTLED)
        picture(tmp_path / "in" / "last.png", 3)
        watch.wait_until(lambda: 3 in watch.numbers)
    assert watch.numbers == [1, 3]


def test_a_wait_does_not_grow_with_what_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is listed seldom, not for every picture: files of a shift are not looked at again."""
    monkeypatch.setattr(watching, "_RESCAN", 3600.0)
    for number in range(200):
        picture(tmp_path / "in" / f"old_{number}.png")

    def fail(folder: FolderWatch) -> None:
        raise AssertionError(folder)

    with watched(tmp_path / "in", only_new=True) as watch:
        picture(tmp_path / "in" / "new_1.png", 1)
        watch.wait_until(lambda: watch.numbers == [1])  # from now on changes are told
        monkeypatch.setattr(FolderWatch, "_files", fail)
        for number in (2, 3):
            picture(tmp_path / "in" / f"new_{number}.png", number)
            watch.wait_until(lambda number=number: watch.numbers[-1:] == [number])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_only_files_are_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.png")
    with watched(tmp_path / "in") as watch:
        os.mkfifo(tmp_path / "in" / "later.png")
        picture(tmp_path / "in" / "0.png", 1)
        watch.wait_until(lambda: watch.numbers == [1])
    assert watch.errors == []


def test_images_that_are_there_may_be_left_alone(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "old.png", 1)
    with watched(tmp_path / "in", only_new=True, polling=True) as watch:
        picture(tmp_path / "in" / "new.png", 2)
        watch.wait_until(lambda: watch.numbers == [2])
    assert watch.numbers == [2]


def test_a_broken_file_is_reported_once_and_judged_when_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with watched(tmp_path / "in") as watch:
        (tmp_path / "in" / "0.png").write_bytes(b"half")
        watch.wait_until(lambda: len(watch.errors) == 1)
        picture(tmp_path / "in" / "0.png", 4)
        watch.wait_until(lambda: watch.numbers == [4])
    assert len(watch.errors) == 1


def test_a_picture_that_no_reader_knows_is_reported_unless_another_stands_for_it(tmp_path: Path) -> None:
    with watched(tmp_path / "in") as watch:
        picture(tmp_path / "in" / "0.png", 4)
        for name in ("0.dng", "1.heic", "notes.txt"):
            (tmp_path / "in" / name).write_bytes(b"no reader")
        watch.wait_until(lambda: bool(watch.errors) and watch.numbers == [4])
        time.sleep(2 * watching.GIVEN_UP)
    assert [Path(error.path).name for error in watch.errors] == ["1.heic"]


def test_a_list_reads_what_pillow_reads_and_reports_the_rest(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4), (10, 20, 30))
    for name, kind in (("a.png", "PNG"), ("b.jfif", "JPEG"), ("c.jp2", "JPEG2000"), ("d.tga", "TGA"), ("e.gif", "GIF")):
        image.save(tmp_path / name, format=kind)
    (tmp_path / "notes.txt").write_text("no image")
    for name in ("broken.png", "a.cr2", "phone.HEIC"):  # a.cr2 is the raw data of a.png
        (tmp_path / name).write_text("no image")
    series, errors = ImageList([tmp_path]), []
    series.report = errors.append
    assert len(series) == 7
    assert sorted(Path(batch.image_path[0]).name[0] for batch in series) == list("abcde")
    assert [Path(error.path).name for error in errors] == ["broken.png", "phone.HEIC"]
    with pytest.raises(FileNotFoundError, match="There is no image in"):
        ImageList([(tmp_path / "empty").mkdir() or tmp_path / "empty"])


class Camera:
    """Does things to a folder in a seeded order, and knows which pictures came to rest.

    Args:
        folder: The folder.
        seed: Seed of the order.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._next, self.whole = 0, {}

    def place(self) -> Path:
        return self._folder / self._random.choice(["", "lot_1", "lot_2/a"]) / f"{self._random.randrange(12)}.png"

    def act(self) -> None:
        """Do one thing; what it leaves whole is in ``whole``, by path."""
        getattr(self, self._random.choice(["add", "add", "add_slowly", "move", "remove", "cut", "empty_folder"]))()

    def add(self) -> None:
        file, self._next = self.place(), self._next + 1
        self.whole[picture(file, self._next)] = self._next

    def add_slowly(self) -> None:
        file, self._next = self.place(), self._next + 1
        content = picture(self._folder.parent / "camera.png", self._next).read_bytes()
        file.parent.mkdir(parents=True, exist_ok=True)
        self.whole.pop(file, None)
        with file.open("wb") as stream:
            stream.write(content[: len(content) // 2])
            stream.flush()
            time.sleep(self._random.choice([0.05, 0.5]))  # shorter and longer than a file settles
            stream.write(content[len(content) // 2 :])
        self.whole[file] = self._next

    def move(self) -> None:
        if self.whole:
            file, target = self._random.choice(sorted(self.whole)), self.place()
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
            self.whole[target] = self.whole.pop(file)

    def remove(self) -> None:
        if self.whole:
            file = self._random.choice(sorted(self.whole))
            file.unlink()
            del self.whole[file]

    def cut(self) -> None:
        if self.whole:
            file = self._random.choice(sorted(self.whole))
            os.truncate(file, file.stat().st_size // 2)
            del self.whole[file]

    def empty_folder(self) -> None:
        folder = self._folder / f"part_{self._next}"
        folder.mkdir(exist_ok=True)
        folder.rmdir()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_every_picture_that_was_whole_is_judged_once(tmp_path: Path, seed: int) -> None:
    """For seconds; ``ANOPLE_SOAK_SECONDS=300`` makes it minutes."""
    camera, rested = Camera(tmp_path / "in", seed), set[int]()
    end = time.monotonic() + float(os.environ.get(SOAK, "5"))
    with watched(tmp_path / "in") as watch:
        while time.monotonic() < end:
            for _ in range(camera._random.randrange(1, 12)):
                camera.act()
            rested.update(camera.whole.values())
            watch.wait_until(lambda: rested <= set(watch.numbers))  # called at once
            assert len(watch.numbers) == len(set(watch.numbers)), sorted(watch.numbers)
    assert len(rested) > 10


def padded(file: Path, number: int) -> Path:
    """Write a picture of as many bytes as any other; one that is there keeps its number and its time."""
    before = file.stat() if file.exists() else None
    content = picture(file.with_suffix(".part"), number).read_bytes().ljust(200, b" ")
    file.with_suffix(".part").unlink()
    with file.open("wb" if before is None else "r+b") as stream:
        stream.write(content)
    if before is not None:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return file


def test_content_that_is_replaced_with_its_time_set_back_is_judged_again(tmp_path: Path) -> None:
    """The system tells when a file was changed; rights, links and another name alone are no change of a picture."""
    for name, number in (("a.png", 5), ("b.png", 6)):
        padded(tmp_path / "in" / name, number)
    with watched(tmp_path / "in") as watch:
        watch.wait_until(lambda: sorted(watch.numbers) == [5, 6])
        padded(tmp_path / "in" / "a.png", 7)
        watch.wait_until(lambda: sorted(watch.numbers) == [5, 6, 7])
        (tmp_path / "in" / "b.png").chmod(0o600)
        os.link(tmp_path / "in" / "b.png", tmp_path / "linked.png")
        time.sleep(1.5)
        (tmp_path / "in" / "b.png").rename(tmp_path / "in" / "c.png")
        time.sleep(0.5)
        (tmp_path / "in" / "c.png").chmod(0o644)
        time.sleep(1.5)
    assert sorted(watch.numbers) == [5, 6, 7]


def test_a_later_watch_knows_by_content_which_files_were_judged(tmp_path: Path) -> None:
    names, known = ("same.png", "replaced.png", "touched.png"), dict[str, State]()
    for number, name in enumerate(names):
        file = padded(tmp_path / "in" / name, number)
        status = file.stat()
        known[str(file)] = State(status.st_mtime_ns, status.st_size, 0, status.st_ctime_ns, digest_of(file))
    time.sleep(0.05)
    padded(tmp_path / "in" / "replaced.png", 8)
    (tmp_path / "in" / "touched.png").chmod(0o600)
    with watched(tmp_path / "in", known) as watch:
        watch.wait_until(lambda: watch.numbers == [8])
        time.sleep(1.0)
    assert watch.numbers == [8]
    without = {path: state[:2] for path, state in known.items()}  # of an earlier version
    with watched(tmp_path / "in", {path: State(*state) for path, state in without.items()}) as watch:
        time.sleep(1.0)
    assert watch.numbers == []


def test_images_that_are_left_alone_may_get_other_rights(tmp_path: Path) -> None:
    file = padded(tmp_path / "in" / "old.png", 1)
    with watched(tmp_path / "in", only_new=True) as watch:
        file.chmod(0o600)
        time.sleep(1.5)
        assert watch.numbers == []
        padded(file, 2)
        watch.wait_until(lambda: watch.numbers == [2])


def test_links_to_folders_are_followed_neither_at_the_start_nor_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "elsewhere" / "0.png", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "before").symlink_to(tmp_path / "elsewhere")
    with watched(tmp_path / "in") as watch:
        (tmp_path / "in" / "after").symlink_to(tmp_path / "elsewhere")
        picture(tmp_path / "in" / "own.png", 2)
        watch.wait_until(lambda: watch.numbers == [2])
        time.sleep(1.5)
    assert watch.numbers == [2]
    for name in ("before", "after"):
        assert caplog.text.count(f"{name}' is a link to a folder") == 1
