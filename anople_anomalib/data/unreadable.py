# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images to judge, read right; one that cannot be read is reported, and the others are judged."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from anomalib.data import ImageBatch, ImageItem
from torch.utils.data import DataLoader, Dataset

from .image_reading import read_image, require_clear_white
from .listing import list_images, say_other_endings


class Unreadable(NamedTuple):
    """An image that cannot be read.

    Attributes:
        path: Its file.
        error: What is wrong and what to do.
    """

    path: str
    error: str


class Photographs(Dataset):
    """Images in folders and files.

    Args:
        paths: Folders, with everything below them, and files.
        white: Value of images of 16 bits that becomes white, as in :class:`.parts.Parts`.

    Raises:
        FileNotFoundError: If one is not there.
        ValueError: If it is not clear which value is white.
    """

    def __init__(self, paths: Sequence[str | Path], white: float | None = None) -> None:
        self.files = list_images(paths).images
        say_other_endings(self.files)
        if white is None:
            require_clear_white(self.files)
        self._white = white

    def __len__(self) -> int:
        """Return the number of images, those that cannot be read among them."""
        return len(self.files)

    def __getitem__(self, index: int) -> ImageItem | Unreadable:
        """Read an image, or say why it cannot be read."""
        return read_photograph(self.files[index], self._white)


class PhotographLoader:
    """Batches of one image each, without those that cannot be read.

    Not torch's class, which Lightning would make anew from its arguments.

    Args:
        photographs: The images.
        num_workers: Number of worker processes.

    Attributes:
        unreadable: What could not be read, in the order of the files.
    """

    def __init__(self, photographs: Photographs, num_workers: int = 0) -> None:
        self.dataset = photographs
        self._loader: DataLoader[ImageItem | Unreadable] = DataLoader(
            photographs, batch_size=None, num_workers=num_workers
        )
        self.unreadable: list[Unreadable] = []

    def __len__(self) -> int:
        """Return the number of images, those that cannot be read among them."""
        return len(self.dataset)

    def __iter__(self) -> Iterator[ImageBatch]:
        """Yield the images that could be read."""
        for item in self._loader:
            if isinstance(item, Unreadable):
                self.unreadable.append(item)
            else:
                yield ImageBatch.collate([item])


def read_photograph(path: Path, white: float | None = None) -> ImageItem | Unreadable:
    """Read an image upright and with all its bits, or say why it cannot be read."""
    try:
        return ImageItem(image=read_image(path, white), image_path=str(path))
    except (OSError, ValueError) as error:
        return Unreadable(str(path), str(error))


def take_unreadable(loaders: object) -> list[Unreadable]:
    """Return what data loaders could not read since the last call.

    Args:
        loaders: A data loader or a list of them; others than :class:`PhotographLoader` have left out nothing.
    """
    several: Iterable[object] = loaders if isinstance(loaders, list | tuple) else [loaders]
    found: list[Unreadable] = []
    for loader in several:
        if isinstance(loader, PhotographLoader):
            found += loader.unreadable
            loader.unreadable = []
    return found
