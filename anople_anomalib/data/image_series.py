# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Series of images that a prediction goes through, one by one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from anomalib.data import ImageBatch, ImageItem

from anople_anomalib.utils.files import image_files, one_line, relative_names

from .file_states import State, state_of
from .image_reading import read_image, require_clear_white, require_white
from .watching import FolderWatch, Unreadable

_ENDLESS = 10**9
"""Length of an endless series. Lightning reads one batch ahead where it knows no length, and would keep an image
waiting for the next one."""


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
        require_white(white)
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
        if (after := state_of(path)) is None or after.file != state.file:
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
        files = [path.absolute() for path in image_files(paths)]
        self._names = dict(zip(files, relative_names(files), strict=True))

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


class WatchedFolder(ImageSeries):
    """A folder as an endless series of images, until it is stopped.

    Args:
        watch: The folder.
        white: Value of 16 bits that is white.
    """

    endless = True

    def __init__(self, watch: FolderWatch, white: float | None = None) -> None:
        super().__init__(white)
        self.watch = watch

    def __len__(self) -> int:
        """Return a number that is never reached."""
        return _ENDLESS

    def __iter__(self) -> Iterator[ImageBatch]:
        """Yield every image, as soon as its file has settled."""
        for found in self.watch.images(self._read):
            if isinstance(found, Unreadable):
                self.report(found)
            else:
                yield found

    def name_of(self, path: str | Path) -> str:
        """Return the place of an image below the folder."""
        return str(Path(path).relative_to(self.watch.folder))


def series_in(loaders: object) -> ImageSeries | None:
    """Return the series among the data loaders of a run, if there is one."""
    several = loaders if isinstance(loaders, list | tuple) else [loaders]
    return next((loader for loader in several if isinstance(loader, ImageSeries)), None)
