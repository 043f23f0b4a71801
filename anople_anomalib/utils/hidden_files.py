# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files that are no images of a data set, although they end like some: ``._0.png``, or a heat map of an earlier run."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_DRAWINGS = re.compile(r"images((?:_\d+)?)")


def is_hidden(path: str | Path, root: str | Path) -> bool:
    """Return whether a path has a component below ``root`` that starts with a dot, or that a run has drawn.

    Args:
        path: A file; one outside of ``root`` is never hidden.
        root: The folder of the data, whose own path may have such components.

    Example:
        >>> is_hidden("/home/.cache/data/good/.ipynb_checkpoints/0.png", "/home/.cache/data")
        True
        >>> is_hidden("/home/.cache/data/good/0.png", "/home/.cache/data")
        False
    """
    path, root = Path(path).absolute(), Path(root).absolute()
    if not path.is_relative_to(root):
        return False
    place = path.relative_to(root)
    folders = [root / parent for parent in place.parents[:-1]]
    return any(part.startswith(".") for part in place.parts) or any(map(holds_drawings, folders))


def holds_drawings(folder: Path) -> bool:
    """Return whether a folder holds the heat maps of a run of this package: its table lies beside it."""
    found = _DRAWINGS.fullmatch(folder.name)
    return found is not None and folder.with_name(f"predictions{found[1]}.jsonl").is_file()


def common_folder(paths: Iterable[str | Path]) -> Path | None:
    """Return the deepest folder that holds all files, or ``None`` without files."""
    folders = [Path(path).absolute().parent for path in paths]
    return Path(os.path.commonpath(folders)) if folders else None


def visible(paths: Sequence[Path], root: str | Path | None = None) -> list[Path]:
    """Leave hidden files out.

    Args:
        paths: Files.
        root: The folder of the data; ``None`` for the deepest folder that holds all files.

    Returns:
        The files that are not hidden, in their order.
    """
    root = root or common_folder(paths) or ""
    return [path for path in paths if not is_hidden(path, root)]
