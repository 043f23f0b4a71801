# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Exported models judge images with numpy, Pillow and one runtime alone: ONNX Runtime or OpenVINO.

Nothing here imports torch, Lightning or anomalib, so that a small computer at a line starts in a second. The
distribution ``anople-runtime`` (``runtime/pyproject.toml``) has this module and those it needs.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anople_anomalib.utils.files import READ_ERRORS, image_files, one_line, relative_names

from .exported import ExportedModel, cores, read_pixels, scaled
from .outbox import delivered
from .painting import picture_name
from .table import COLUMNS, ERROR, OK, TableWriter, line_of, message_of, stamped, unjudged

if TYPE_CHECKING:
    from anople_anomalib.data.file_states import State
    from anople_anomalib.data.watching import FolderWatch, Unreadable

FINE, FLAGGED, UNJUDGED = 0, 1, 3
"""Exit codes: every image has a verdict, some are not OK where that was asked for, some have none."""

_UNREADABLE = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError)


class Frame(NamedTuple):
    """An image that comes to be judged: the one form in which folders, watches and cameras hand theirs over."""

    path: str
    name: str  # of its picture, below the folder of all
    read: Callable[[], NDArray[np.uint8]]  # upright, in color, shape (H, W, 3); raises the errors of reading a file
    file: Mapping[str, Any] = {}  # columns on its file


def judge(paths: Iterable[str | Path], model: str | Path | ExportedModel) -> Iterator[dict[str, Any]]:
    """Judge image files, several at once.

    Args:
        paths: Files, and folders with everything below them.
        model: An exported model, or its file.

    Yields:
        A row per image with the keys of :data:`.table.COLUMNS`; one that cannot be judged has the verdict ``"ERROR"``.

    Raises:
        FileNotFoundError: If a file or folder, the model or its metadata is missing.
        ValueError: If the model is refused, see :class:`ExportedModel`.
    """
    exported = model if isinstance(model, ExportedModel) else ExportedModel(model, cores())
    yield from (row for _, row in rows_of_frames(frames_in(paths), exported))


def frames_in(paths: Iterable[str | Path]) -> list[Frame]:
    """Return the images of files and folders, see :func:`image_files`."""
    files = [file.absolute() for file in image_files(paths)]  # as a checkpoint's rows and those of a watch name them
    return [frame_of(str(file), name) for file, name in zip(files, relative_names(files), strict=True)]


def frame_of(path: str, name: str) -> Frame:
    """Return an image file."""
    return Frame(path, name, partial(read_pixels, path), _state_of(Path(path)))


def frames_of(watch: "FolderWatch") -> Iterator[Frame]:
    """Yield the images that come into a watched folder until it is stopped; a frame holds its pixels."""
    from anople_anomalib.data.watching import Unreadable

    def read(path: Path, state: "State") -> "Frame | Unreadable | None":
        """Read a file that has settled."""
        try:
            pixels = read_pixels(path)
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            found: Frame | Unreadable = Unreadable(str(path), one_line(error))
        else:
            found = Frame(str(path), str(path.relative_to(watch.folder)), lambda: pixels, state.columns())
        return found

    def refuse(error: str) -> NDArray[np.uint8]:
        """Stand for an image that cannot be read."""
        raise ValueError(error)

    for found in watch.images(read):
        if isinstance(found, Unreadable):
            found = Frame(found.path, "", partial(refuse, found.error), _state_of(Path(found.path)))
        yield found


def rows_of_frames(
    frames: Iterable[Frame], model: ExportedModel, pictures: Path | None = None
) -> Iterator[tuple[Frame, dict[str, Any]]]:
    """Judge images, as many at once as the model takes, and yield each with its row, in their order.

    Args:
        frames: The images. A model that takes one at a time asks for none before the last one's row was taken.
        model: The exported model.
        pictures: Folder of heat maps; ``None`` for none.
    """
    row = partial(row_of, model=model, pictures=pictures)
    if model.at_once == 1:
        yield from ((frame, row(frame)) for frame in frames)
        return
    coming = iter(frames)
    with ThreadPoolExecutor(model.at_once) as pool:
        waiting = deque((frame, pool.submit(row, frame)) for frame in islice(coming, 2 * model.at_once))
        while waiting:
            frame, found = waiting.popleft()
            yield frame, found.result()
            waiting.extend((frame, pool.submit(row, frame)) for frame in islice(coming, 1))


def row_of(frame: Frame, model: ExportedModel, pictures: Path | None = None) -> dict[str, Any]:
    """Judge an image, and return its row; whatever is wrong with the image is the error in it.

    ``pictures`` is the folder of heat maps; ``None`` for none.
    """
    picture = None if pictures is None else pictures / picture_name(frame.name)
    started, names = time.perf_counter(), model.metadata.class_names
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"path": frame.path, **frame.file}
    row["category"] = names[0] if len(names) == 1 else ""
    try:
        row |= model.judge(frame.read(), picture)
    except _UNREADABLE as error:
        row |= unjudged(one_line(error))
    row["seconds"] = round(time.perf_counter() - started, 4)
    return stamped(row, model.metadata.model_id)


def _state_of(path: Path) -> dict[str, Any]:
    """Return the columns on a file; none for one that is gone, which reading tells."""
    with suppress(OSError):
        state = path.stat()
        return {"modified": state.st_mtime_ns, "bytes": state.st_size}
    return {}


def write_verdicts(
    frames: Iterable[Frame],
    model: ExportedModel,
    output: Path,
    signals: Iterable[str] = (),
    *,
    pictures: bool = False,
    append: bool = False,
    observe: Callable[[Mapping[str, Any], NDArray[np.float32] | None], object] | None = None,
    rows: Callable[..., Iterator[tuple[Frame, dict[str, Any]]]] = rows_of_frames,
) -> dict[str, int]:
    """Judge images, print a line and write a row each to a folder, and count the verdicts.

    Args:
        frames: The images.
        model: The exported model.
        output: The folder.
        signals: Addresses that get every row, see :mod:`.signals`; a wrong one is a ValueError.
        pictures: Whether heat maps are drawn.
        append: Whether rows are added to those of an earlier run.
        observe: Called with every row, and the image in [0, 1], shape ``(3, H, W)``; ``None`` if it has no verdict.
        rows: Judges them, with the arguments of :func:`rows_of_frames`.
    """
    with delivered(output, signals) as deliver, TableWriter(output, append=append) as table:
        folder = output / f"images{table.number}" if pictures else None
        for frame, row in rows(frames, model, folder):
            deliver(message_of(row))  # first: a row of the table is not judged again, and so never delivered later
            table.write([row])
            print(line_of(row), flush=True)
            if observe is not None:
                judged = row["verdict"] != ERROR
                observe(row, scaled(frame.read()) if judged else None)
    print(table.summary())
    return table.counts


def exit_code(counts: Mapping[str, int], *, fail_on_flag: bool = False) -> int:
    """Return the exit code for so many rows of each verdict; a part that is not OK may be a failure."""
    if fail_on_flag and any(number for verdict, number in counts.items() if verdict not in (OK, ERROR)):
        return FLAGGED
    return UNJUDGED if counts.get(ERROR) else FINE
