# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files of a folder as they are at one moment, by which a change is told."""

import functools
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from anople_anomalib.utils.files import holds_drawings, picture_endings

logger = logging.getLogger(__name__)


class State(NamedTuple):
    """A file as it is at one moment."""

    modified: int  # when its content was changed, in nanoseconds, as whoever wrote it says
    size: int  # its bytes
    number: int = 0  # its number in the file system; 0 where that is not known
    changed: int = 0  # when anything about it was, in nanoseconds, as the system says
    digest: str = ""  # SHA-256 of its content, once that was judged

    @property
    def file(self) -> tuple[int, int, int]:
        """The part that stays when a file is moved, linked or given other rights."""
        return self[:3]

    def columns(self) -> dict[str, Any]:
        """Return the columns of a row on the file."""
        told = {"changed": self.changed, "sha256": self.digest} if self.digest else {}
        return {"modified": self.modified, "bytes": self.size, **told}


def states_below(path: Path) -> dict[str, State]:
    """Return the image files at and below a path that are not hidden; one that is gone holds none."""
    if not path.is_dir():
        state = state_of(path) if path.suffix.lower() in picture_endings() else None
        return {} if state is None else {str(path): state}
    found: dict[str, State] = {}
    folders, endings = [] if path.is_symlink() else [str(path)], picture_endings()
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:  # removed since it was listed
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders += [] if holds_drawings(Path(entry.path)) else [entry.path]
                    elif entry.is_dir():
                        _say_link(entry.path)
                    elif entry.name.lower().endswith(endings) and (state := state_of(entry.path)) is not None:
                        found[entry.path] = state
    return found


@functools.lru_cache(maxsize=100)
def _say_link(path: str) -> None:
    logger.warning("'%s' is a link to a folder, and is not followed: watch that folder itself.", path)


def state_of(path: str | Path) -> State | None:
    """Return the state of a regular file, ``None`` if it cannot be had: a pipe would be waited for."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return State(status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
