# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files and folders that appear complete or not at all, and what can go wrong when others read them."""

import hashlib
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READ_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What libraries raise that read a damaged file."""


def digest_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Write a file beside its final place and rename it once it is finished and on the disk.

    The temporary file lies in the same folder: a rename across devices would be a copy, and a process that is killed
    while it copies would leave half a file under the final name.

    Args:
        path: The file's final path; missing folders are made.

    Yields:
        The temporary path to write to. If the block raises, it is removed, and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: str | Path) -> Iterator[Path]:
    """Write a folder beside its final place and rename it once it is finished.

    When several processes write the same folder at the same time, one of them wins and the others drop theirs.

    Args:
        path: The folder's final path.

    Yields:
        The temporary path of a folder to make and to fill. If the block raises, it is removed.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    """Return a hidden name that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
