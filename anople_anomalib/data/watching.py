# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A folder that images keep coming into; the runtime without torch has this file."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from anople_anomalib.utils.files import digest_of, is_hidden, is_picture

from .file_states import State, state_of, states_below

logger = logging.getLogger(__name__)

SETTLED = 0.5
"""Seconds after which a file that has not changed is taken to be complete."""
GIVEN_UP = 5.0
"""Seconds after which one that has not changed and still cannot be read is taken to be broken."""
_RESCAN = 10.0
"""Seconds after which the folder is listed without a word of the system, which drops events when there are many."""
_PATIENCE = 10
"""A listing takes at most one part in so many of the time."""
_REMEMBERED = 200_000
"""Files that are known again at another place, at most, beside those that are there."""
_UNREAD = "unread"  # digest of a file that is left alone: its rights or links may change
_PAUSE = 0.05  # seconds between two looks at files, however many events there are
_Image = TypeVar("_Image")


class Unreadable(NamedTuple):
    """An image that cannot be judged: its file, and the reason with the way out."""

    path: str
    error: str


class FolderWatch:
    """A folder whose images are read as they come, until :meth:`stop`.

    A file is read once it has settled, so that one that is still being written is not judged; if it changes later, it
    is judged again, even where its time was set back, and if it is moved within the folder it is not. The system says
    which files to look at; all are listed once in a while, for network drives and dropped events. Links to folders are
    not followed. Nothing that happens in the folder ends the series.

    Args:
        folder: The folder, watched with everything below it.
        known: States of files that were judged, by their paths: they are not judged again.
        polling: Whether the folder is listed again and again, for file systems that report no changes.
        only_new: Whether images that are there are left alone.

    Raises:
        NotADirectoryError: If there is no such folder.
    """

    def __init__(
        self,
        folder: str | Path,
        known: Mapping[str, State] | None = None,
        *,
        polling: bool = False,
        only_new: bool = False,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.name = str(self.folder)
        require_folder(folder)
        self._period = SETTLED if polling else _RESCAN
        self._stopped, self._changes = threading.Event(), _Changes()
        there = self._files()
        self._judged = {path: state._replace(digest=_UNREAD) for path, state in there.items()} if only_new else {}
        for path, before in {} if only_new else (known or {}).items():
            state = there.get(str(Path(path)))
            if state is not None and before[:2] == state[:2]:  # rows hold no number
                changed = before.changed if before.digest else state.changed
                self._judged[str(Path(path))] = state._replace(changed=changed, digest=before.digest or _UNREAD)
        self._moved = self._numbered()
        self._waiting: dict[str, tuple[State, float]] = {}
        self._listed, self._next_listing = there, 0.0

    def images(self, read: Callable[[Path, State], _Image | Unreadable | None]) -> Iterator[_Image | Unreadable]:
        """Yield every image, as soon as its file has settled.

        Args:
            read: Reads a file; ``None`` if it is gone, or changes meanwhile. One that is unreadable is read again for a
                while.
        """
        self._look_at(self._listed)
        self._listed = {}
        with self._observed():
            while not self._stopped.is_set():
                self._look_at(self._changed_files())
                yield from self._settled(read)
                wait = SETTLED / 2 if self._waiting else max(self._next_listing - time.monotonic(), 0)
                self._changes.woken.wait(wait)
                self._stopped.wait(_PAUSE)

    def stop(self) -> None:
        """End the series after the image that is being judged."""
        self._stopped.set()
        self._changes.woken.set()

    def resume(self) -> None:
        """Let the series go on with the images that came since it was stopped."""
        self._stopped.clear()
        self._next_listing = 0.0

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Be told of changes of the folder, where the system can."""
        observer = Observer()
        try:
            observer.schedule(self._changes, str(self.folder), recursive=True)
            observer.start()
        except (OSError, RuntimeError) as error:  # the folder is gone, or there are too many to be watched
            logger.warning("%s: the folder is listed every %g seconds instead.", error, self._period)
        try:
            yield
        finally:
            if observer.is_alive():
                observer.stop()
                observer.join()

    def _changed_files(self) -> dict[str, State]:
        """Return the files that the system has named, or all where it is time for that."""
        changed = self._changes.take()
        start = time.monotonic()
        if start >= self._next_listing:
            found = self._files()
            spent = time.monotonic() - start
            self._next_listing = time.monotonic() + max(self._period, _PATIENCE * spent)
            for path in self._judged.keys() - found.keys():
                del self._judged[path]
            if len(self._moved) > _REMEMBERED:
                self._moved = self._numbered()
            return found
        found = {}
        for place in changed:
            if place.is_relative_to(self.folder) and not is_hidden(place, self.folder):
                found.update(states_below(place))
        return found

    def _files(self) -> dict[str, State]:
        return states_below(self.folder)

    def _look_at(self, files: Mapping[str, State]) -> None:
        """Let files that are new or changed wait until they have settled."""
        known = {path: state for path, (state, _) in self._waiting.items()}
        for path in sorted(files):
            state = files[path]
            if state == known.get(path) or state[:4] == self._judged.get(path, ())[:4]:
                continue
            before, digest = self._moved.get(state.file, (path, ""))
            there = state_of(before)
            if before != path and (there is None or there.file != state.file):  # moved, not linked
                self._take(path, state._replace(digest=digest))
            else:
                self._waiting[path] = state, time.monotonic()

    def _take(self, path: str, state: State) -> None:
        """Note that a file was judged."""
        self._judged[path] = state
        self._waiting.pop(path, None)
        if state.number:
            self._moved[state.file] = path, state.digest

    def _numbered(self) -> dict[tuple[int, int, int], tuple[str, str]]:
        return {state.file: (path, state.digest) for path, state in self._judged.items() if state.number}

    def _settled(self, read: Callable[[Path, State], _Image | Unreadable | None]) -> Iterator[_Image | Unreadable]:
        """Yield images whose files have stayed the same for a while."""
        for path in list(self._waiting):
            if self._stopped.is_set():
                return
            before, since = self._waiting[path]
            waited = time.monotonic() - since
            if waited < SETTLED:
                continue
            state = state_of(path)
            if state is None:
                del self._waiting[path]
                continue
            if state.file != before.file:
                self._waiting[path] = state, time.monotonic()
                continue
            with suppress(OSError):  # of one that cannot be read
                state = state._replace(digest=digest_of(path))
            judged = self._judged.get(path)
            same = judged is not None and judged.file == state.file and judged.digest in (state.digest, _UNREAD)
            if state.digest and same:
                self._take(path, state)  # its name, links or rights were changed alone
                continue
            found = read(Path(path), state)
            after = state_of(path)
            if found is None or after is None or after.file != state.file:
                continue
            if isinstance(found, Unreadable) and waited < GIVEN_UP:
                continue
            self._take(path, state)
            if not isinstance(found, Unreadable) or is_picture(Path(path)):
                yield found


class _Changes(FileSystemEventHandler):
    """Files and folders that something has happened to, other than being read.

    Attributes:
        woken: Set while there is such a place, or an end.
    """

    def __init__(self) -> None:
        self._paths: set[Path] = set()
        self._lock, self.woken = threading.Lock(), threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note where it has happened."""
        if event.event_type in {"opened", "closed_no_write"}:
            return
        if event.is_directory and event.event_type == "modified":
            return  # by its files, which have events of their own
        with self._lock:
            self._paths.add(Path(os.fsdecode(event.dest_path or event.src_path)))
        self.woken.set()

    def take(self) -> set[Path]:
        """Return the places, and forget them."""
        with self._lock:
            taken, self._paths = self._paths, set()
            self.woken.clear()
        return taken


def require_folder(folder: str | Path) -> None:
    """Raise a NotADirectoryError where there is no such folder."""
    if not Path(folder).is_dir():
        msg = f"There is no folder '{folder}' to watch: check the path."
        raise NotADirectoryError(msg)
