# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files that grow by a line of JSON at a time, and whose writer may be killed at any moment."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .files import make_folder


@contextmanager
def sole_writer(stem: Path) -> Iterator[None]:
    """Let no other process add lines meanwhile; the same thread may ask again.

    Args:
        stem: The files without their endings, ``verdicts/predictions``; a missing folder is made.

    Raises:
        BlockingIOError: If another process does.
    """
    make_folder(stem.parent)
    lock = FileLock(stem.with_name(f".{stem.name}.lock"), timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        msg = f"Another run writes to '{stem.parent}': wait for its end, or give this one another --output."
        raise BlockingIOError(msg) from error
    try:
        yield
    finally:
        lock.release()


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects that a file has, one a line, none without the file; a line that is no object is left out."""
    with suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):  # cut off by a power failure, or no JSON
                if isinstance(content := json.loads(line), dict):
                    yield content


def cut_half_line(path: Path) -> None:
    """Cut off the half line that a power failure leaves at the end of a file; a whole one gets its end."""
    with path.open("r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        try:
            json.loads(content[end:])
        except ValueError:
            file.truncate(end)  # for which a full disk has room
        else:
            file.write(b"\n")
