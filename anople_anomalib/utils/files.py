# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files that appear complete or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Write a file beside its final place and rename it once it is finished.

    The temporary file lies in the same folder: a rename across devices would be a copy, and a process that is killed
    while it copies would leave half a file under the final name.

    Args:
        path: The file's final path; missing folders are made.

    Yields:
        The temporary path to write to. If the block raises, it is removed, and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
