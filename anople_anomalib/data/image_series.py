# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Series of images that a prediction goes through, one by one."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from anomalib.data import ImageBatch, ImageItem

from anople_anomalib.utils.files import one_line

from .image_reading import read_image, require_clear_white
from .listing import list_images
from .sampling import relative_names


class Unreadable(NamedTuple):
    """An image that cannot be judged: its file, and the reason with the way out."""

    path: str
    error: str


class State(NamedTuple):
    """A file as it is at one moment; the same file at another place has the same state.

    Attributes:
        modified: When it was changed, in nanoseconds.
        size: Its bytes.
        number: Its number in the file system; 0 where that is not known.
    """

    modified: int
    size: int
    number: int = 0


class ImageSeries:
    """Batches of one image each, of files that are opened once.

    Args:
        white: Value of 16 bits that is white; ``None`` for 65535, or for 1 in floating point.

    Attributes:
        endless: Whether images keep coming.
        report: Called with every image that cannot be judged.
        observers: Called with every row, and the image of shape ``(3, H, W)``; ``None`` if it could not be read.
        check: Called with the file of an image, and its height and width; raises an error where they are wrong.
        states: States of the files that were read, by their paths, until they are asked for.
    """

    endless = False

    def __init__(self, white: float | None = None) -> None:
        self.report: Callable[[Unreadable], object] = repr  # of no consequence
        self.check: Callable[[Path, Sequence[int]], object] | None = None
        self.observers: list[Callable[[Mapping[str, Any], torch.Tensor | None], object]] = []
        self.states: dict[str, State] = {}
        self._white = white

    def name_of(self, path: str | Path) -> str:
        """Return the name of an image's results: its place below the folder of the series."""
        return Path(path).name

    def _read(self, path: Path, state: State) -> ImageBatch | Unreadable | None:
        """Read an image, and keep its file's state; ``None`` if it is gone, or changes meanwhile."""
        try:
            if self._white is None:
                require_clear_white([path])
            image = read_image(path, self._white)
            if self.check is not None:
                self.check(path, image.shape[-2:])
            batch = ImageBatch.collate([ImageItem(image=image, image_path=str(path))])
            read: ImageBatch | Unreadable = cast("ImageBatch", batch)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  # any fault of a file: the series goes on
            read = Unreadable(str(path), one_line(error))
        if state_of(path) != state:
            return None
        self.states[str(path)] = state
        return read


class ImageList(ImageSeries):
    """Images of files and folders.

    Args:
        paths: Files, whatever they end in, and folders, searched for everything that Pillow knows as an image.
        white: Value of 16 bits that is white.

    Raises:
        FileNotFoundError: If a path is not there, or there is no image.
    """

    def __init__(self, paths: Sequence[str | Path], white: float | None = None) -> None:
        super().__init__(white)
        listing = list_images(paths)
        files = [path.absolute() for path in (*listing.images, *listing.pictures)]
        if not files:
            msg = f"There is no image in {', '.join(map(str, paths))}: give files, or folders of images."
            raise FileNotFoundError(msg)
        self._names = dict(zip(files, relative_names(list(map(str, files))), strict=True))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def __iter__(self) -> Iterator[ImageBatch]:
        """Yield every image that can be read, and report the others."""
        for path in self._names:
            state = state_of(path)
            read = None if state is None else self._read(path, state)
            if read is None:
                read = Unreadable(str(path), f"The image '{path}' was removed or changed while it was read.")
            if isinstance(read, Unreadable):
                self.report(read)
            else:
                yield read

    def name_of(self, path: str | Path) -> str:
        """Return the place of an image below the folder that holds all."""
        return self._names[Path(path)]


def series_in(loaders: object) -> ImageSeries | None:
    """Return the series among the data loaders of a run, if there is one."""
    several = loaders if isinstance(loaders, list | tuple) else [loaders]
    return next((loader for loader in several if isinstance(loader, ImageSeries)), None)


def state_of(path: str | Path) -> State | None:
    """Return the state of a file, ``None`` if it cannot be had."""
    try:
        return as_state(Path(path).stat())
    except (OSError, ValueError):
        return None


def as_state(status: os.stat_result) -> State:
    """Return a file's state as the system tells it."""
    return State(status.st_mtime_ns, status.st_size, status.st_ino)
