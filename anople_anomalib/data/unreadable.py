# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data loaders that leave out images that cannot be read, and say which and why."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from anomalib.data import DatasetItem
from torch.utils.data import DataLoader, Dataset

from .image_reading import IMAGE_ERRORS, open_image


class Unreadable(NamedTuple):
    """An image that cannot be read.

    Attributes:
        path: Its file.
        error: What is wrong and what to do.
    """

    path: str
    error: str


class ForgivingDataset(Dataset):
    """A data set that gives an :class:`Unreadable` in place of an image that cannot be read.

    Everything else is that of the wrapped data set, its other errors as well.

    Args:
        dataset: A data set of anomalib, of which an image's path is known by its number.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return an attribute of the wrapped data set."""
        if name == "dataset":  # not set yet: a copy in the making, such as a worker's
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        """Return the number of images, those that cannot be read among them."""
        return len(self.dataset)  # type: ignore[arg-type]  # torch's class promises no length

    def __getitem__(self, index: int) -> DatasetItem | Unreadable:
        """Read an image, or say why it cannot be read."""
        try:
            return self.dataset[index]
        except IMAGE_ERRORS:
            path = self._path_of(index)
            try:
                open_image(path)
            except (OSError, ValueError) as error:
                return Unreadable(path, str(error))
            raise  # the image is fine: something else is wrong, such as a mask

    def _path_of(self, index: int) -> str:
        samples = getattr(self.dataset, "samples", None)
        return str(self.image_filenames[index] if samples is None else samples.iloc[index].image_path)


class CollateReadable:
    """A collate function that collates what could be read, and hands on what could not.

    Args:
        collate: Collate function of the data set.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Iterable[Any]) -> tuple[Any, list[Unreadable]]:
        """Return a batch, ``None`` if nothing could be read, and what could not be read."""
        items = list(items)
        readable = [item for item in items if not isinstance(item, Unreadable)]
        unreadable = [item for item in items if isinstance(item, Unreadable)]
        return (self.collate(readable) if readable else None), unreadable


class ForgivingLoader(DataLoader):
    """A data loader that yields the batches of :class:`CollateReadable` and reports what could not be read.

    Lightning makes loaders anew from their arguments (a sampler for several processes): what is reported to is
    therefore set afterwards, by :func:`forgive`, and belongs to the data set.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own iterator only, which this one wraps
        """Yield batches of images that could be read."""
        for batch, unreadable in super().__iter__():
            if unreadable:
                vars(self.dataset).setdefault("unreadable", []).extend(unreadable)
            if batch is not None:
                yield batch


def forgiving(loader: DataLoader) -> ForgivingLoader:
    """Return a data loader over the same data set that leaves out images that cannot be read.

    Args:
        loader: A data loader of images in a fixed order.

    Returns:
        The other data loader; :func:`take_unreadable` tells what it has left out.
    """
    return ForgivingLoader(
        ForgivingDataset(loader.dataset),
        batch_size=loader.batch_size,
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        collate_fn=CollateReadable(loader.collate_fn),
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def take_unreadable(loaders: object) -> list[Unreadable]:
    """Return what data loaders have left out since the last call.

    Args:
        loaders: A data loader or a list of them; those that are not forgiving have left out nothing.
    """
    found: list[Unreadable] = []
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        if isinstance(loader, ForgivingLoader):
            found += vars(loader.dataset).pop("unreadable", [])
    return found
