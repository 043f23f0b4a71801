# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A folder that images keep coming into, as something that a prediction goes through."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from anomalib.data import ImageBatch, PredictDataset
from anomalib.data.utils.image import is_image_file
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from anople_anomalib.utils.hidden_files import visible

from .image_reading import open_image, require_plain_images
from .unreadable import Unreadable

SETTLED = 0.5
"""Seconds after which a file that has not changed is taken to be complete."""
GIVEN_UP = 5.0
"""Seconds after which one that has not changed and still cannot be read is taken to be broken."""
_RESCAN = 10.0
"""Seconds after which the folder is listed without a word of the system, which drops events when there are many."""
_PAUSE = 0.05  # seconds between two listings, however many events there are
_ENDLESS = 10**9
"""Length of an endless series. Lightning reads one batch ahead where it knows no length, and would keep an image
waiting for the next one."""

State = tuple[int, int]
"""When a file was changed, in nanoseconds, and its size."""


class WatchedFolder:
    """A folder as an endless series of batches of one image each, until :meth:`stop`.

    A file is read once it has settled, so that one that is still being written is not judged; if it changes later, it
    is judged again. What the system says about the folder only makes it be listed: what counts are the files that are
    there, on network drives as well.

    Args:
        folder: The folder, watched with everything below it.
        known: Files that are not judged unless they change.
        polling: Whether the folder is looked at again and again, for file systems that report no changes.

    Attributes:
        report: Called with every image that cannot be read.

    Raises:
        NotADirectoryError: If there is no such folder.
    """

    def __init__(
        self, folder: str | Path, known: Callable[[Path], bool] | None = None, *, polling: bool = False
    ) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            msg = f"There is no folder '{folder}' to watch: check the path."
            raise NotADirectoryError(msg)
        self.report: Callable[[Unreadable], object] = repr  # of no consequence
        self._polling = polling
        self._stopped, self._woken = threading.Event(), threading.Event()
        self._judged = {path: state for path, state in self._files().items() if known is not None and known(path)}
        self._waiting: dict[Path, tuple[State, float]] = {}

    def __len__(self) -> int:
        """Return a number that is never reached."""
        return _ENDLESS

    def __iter__(self) -> Iterator[ImageBatch]:
        """Yield every image, as soon as its file has settled."""
        with self._observed():
            while not self._stopped.is_set():
                self._woken.clear()  # before the listing: what happens during it wakes the next one
                yield from self._settled()
                self._woken.wait(SETTLED / 2 if self._waiting else _RESCAN)
                self._stopped.wait(_PAUSE)

    def stop(self) -> None:
        """End the series after the image that is being judged."""
        self._stopped.set()
        self._woken.set()

    def name_of(self, path: str | Path) -> Path:
        """Return the place of an image below the folder.

        Args:
            path: Its path as it was yielded.
        """
        return Path(path).relative_to(self.folder)

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Be woken by changes of the folder."""
        observer = PollingObserver(timeout=SETTLED) if self._polling else Observer()
        observer.schedule(_Waker(self._woken), str(self.folder), recursive=True)
        observer.start()
        try:
            yield
        finally:
            observer.stop()
            observer.join()

    def _files(self) -> dict[Path, State]:
        """List the image files that are there."""
        found: dict[Path, State] = {}
        for path in sorted(self.folder.rglob("*")):
            with suppress(FileNotFoundError):  # moved away since it was listed
                if is_image_file(path):
                    status = path.stat()
                    found[path] = status.st_mtime_ns, status.st_size
        shown = visible(list(found), self.folder) if found else []
        return {path: found[path] for path in shown}

    def _settled(self) -> Iterator[ImageBatch]:
        """Yield images whose files are new and have stayed the same for a while."""
        files = {path: state for path, state in self._files().items() if self._judged.get(path) != state}
        self._waiting = {path: kept for path, kept in self._waiting.items() if path in files}
        for path, state in files.items():
            if self._stopped.is_set():
                return
            before, since = self._waiting.setdefault(path, (state, time.monotonic()))
            if before != state:
                self._waiting[path] = state, time.monotonic()
                continue
            waited = time.monotonic() - since
            read = _read(path) if waited >= SETTLED else None
            if read is None or (isinstance(read, Unreadable) and waited < GIVEN_UP):
                continue
            self._judged[path] = state
            del self._waiting[path]
            if isinstance(read, Unreadable):
                self.report(read)
            else:
                yield read


class _Waker(FileSystemEventHandler):
    """Sets an event when something happens to a file or folder, other than being read."""

    def __init__(self, woken: threading.Event) -> None:
        self._woken = woken

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Set the event."""
        if event.event_type not in {"opened", "closed_no_write"}:
            self._woken.set()


def watched_folder(loaders: object) -> WatchedFolder | None:
    """Return the watched folder among the data loaders of a run, if there is one.

    Args:
        loaders: A data loader or a list of them.
    """
    several = loaders if isinstance(loaders, list | tuple) else [loaders]
    return next((loader for loader in several if isinstance(loader, WatchedFolder)), None)


def _read(path: Path) -> ImageBatch | Unreadable | None:
    """Read an image, say why it cannot be read, or return nothing if it is gone."""
    try:
        require_plain_images([path])
        open_image(path)
        return cast("ImageBatch", ImageBatch.collate([PredictDataset(path)[0]]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return Unreadable(str(path), str(error))
