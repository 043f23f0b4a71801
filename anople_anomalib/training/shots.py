# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The k normal images of a training run, and normal images to validate on where a datamodule has none."""

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, Batch
from anomalib.data.datasets import AnomalibDataset
from torch.utils.data import DataLoader, Sampler
from torchvision.transforms.v2 import Compose, Resize, Transform
from typing_extensions import Self

from anople_anomalib.data.sampling import (
    draw_normal_images,
    draw_shots,
    draw_validation_images,
    normal_samples,
    other_samples,
)
from anople_anomalib.method.views import double
from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.files import relative_names
from anople_anomalib.utils.scoped import replaced
from anople_anomalib.utils.transforms import resize_like

from .copies import parts_of, thumbnail

logger = logging.getLogger(__name__)

_LOOKED_AT = 100  # images among which copies of the shots are looked for, at most


class Shots(Protocol):
    """Normal images for a memory."""

    @property
    def paths(self) -> Sequence[str]:
        """Their files; none where they are not known."""

    @property
    def categories(self) -> Sequence[int]:
        """Number of each one's category."""

    def image(self, number: int) -> torch.Tensor:
        """Return one of them, shape ``(1, 3, H, W)``, values in [0, 1]."""


class LoadedShots:
    """Images of data loaders that a user hands to the trainer, of one category.

    Args:
        batches: Batches of normal images, values in [0, 1].
    """

    validate = False

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._images = [image for batch in batches for image in images_of(batch).split(1)]
        self.paths: list[str] = []
        self.categories = [0] * len(self._images)

    def image(self, number: int) -> torch.Tensor:
        """Return one of them."""
        return self._images[number]


class TrainingShots:
    """The shots of a datamodule, and the data loaders of a training run on them.

    Within a ``with`` block, the datamodule's training data loader gives the shots alone, one at a time, at twice the
    model's resolution; where it has no validation images, :func:`images_to_validate_on` stand in for them. After the
    block, whatever ended it, all is as it was. Its data sets stay as they are.

    Args:
        datamodule: The datamodule, set up. If it draws shots itself (it has ``drawn_samples``), they are used as they
            are.
        k_shot: Number of shots; ``None`` for all normal images.
        seed: Seed of the draw.
        image_size: Height and width of the images that the model sees.
        order_seed: Seed of the order in which an epoch shows the shots.
        input_size: Height and width of the images to validate on, if they are not those of the model.
        transform: Transform of the model's pre-processor, whose kind of resizing the shots get.

    Attributes:
        names: File names of the shots, by category.
        validate: Whether the shots themselves stand in for validation images, as there are no other normal ones.

    Raises:
        ValueError: If there are fewer normal images than shots, or none.
    """

    def __init__(
        self,
        datamodule: AnomalibDataModule,
        k_shot: int | None,
        seed: int,
        image_size: tuple[int, int],
        order_seed: int = 0,
        input_size: tuple[int, int] | None = None,
        transform: Transform | None = None,
    ) -> None:
        self._datamodule, self._seed = datamodule, seed
        self._image_size, self._transform = image_size, transform
        self._input_size = input_size or image_size
        drawn = getattr(datamodule, "drawn_samples", None)
        if drawn:
            self.names = {category: list(names) for category, names in drawn.items()}
            self._shots = datamodule.train_data
        else:
            category = datamodule.category or datamodule.name
            self._shots, names = draw_normal_images(datamodule.train_data, k_shot, seed, category)
            self.names = {category: names}
        self._plain = _with_augmentations(self._shots, None)
        self._sampler = EpochSampler(len(self._shots), order_seed)
        self._changes = ExitStack()
        self.validate = False

    def __enter__(self) -> Self:
        """Replace the datamodule's data loaders."""
        datamodule, whole = self._datamodule, self._datamodule.train_data
        for category, names in self.names.items():
            logger.info("Shots of %s, of %d good images: %s", category, len(normal_samples(whole)), ", ".join(names))
        for name, purpose in (("test_data", "tests"), ("val_data", "validation")):
            if len(aside := _set_aside(vars(datamodule).get(name), whole)):
                logger.info("%s sets aside for %s: %s", type(datamodule).__name__, purpose, ", ".join(aside))
        loaders = {"train_dataloader": self._train_loader()}
        if not getattr(datamodule, "val_data", None):
            others = self._other_parts()
            self.validate = len(others) == 0
            logger.info(
                "There are no validation images: the thresholds come from %s.",
                "the shots, each judged by the memory of the others" if self.validate else "other training images",
            )
            loaders["val_dataloader"] = self._validation_loader(others)
        for name, loader in loaders.items():
            # Lightning asks the datamodule alone, and a model has no hook to give it another one
            self._changes.enter_context(replaced(datamodule, name, partial(_same, loader)))
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the datamodule's own data loaders."""
        self._changes.close()

    def __len__(self) -> int:
        """Return the number of shots."""
        return len(self._plain)

    def image(self, number: int) -> torch.Tensor:
        """Return one shot without augmentations, shape ``(1, 3, H, W)``, values in [0, 1]."""
        return images_of(self._plain[number]).unsqueeze(0)

    @property
    def dataset(self) -> AnomalibDataset:
        """The shots, without augmentations."""
        return self._plain

    @property
    def paths(self) -> list[str]:
        """Files of the shots, in the order of their numbers."""
        return self._plain.samples.image_path.tolist()

    @property
    def categories(self) -> list[int]:
        """Number of each shot's category among :attr:`names`, in the order of their numbers."""
        category_of = getattr(self._datamodule, "category_of", None)
        if category_of is None or len(self.names) == 1:
            return [0] * len(self)
        numbers = {category: number for number, category in enumerate(self.names)}
        return [numbers[category_of(path)] for path in self.paths]

    def _train_loader(self) -> DataLoader:
        large = resize_like(self._transform, double(self._image_size))
        shots = _with_augmentations(self._shots, _append(self._datamodule.train_augmentations, large))
        # without workers: they would be forked anew in every epoch, for a handful of images
        return DataLoader(shots, batch_size=1, sampler=self._sampler, collate_fn=shots.collate_fn)

    def _other_parts(self) -> pd.DataFrame:
        """Return the rows of normal images that show other parts than the shots, of very many images a draw."""
        whole = self._datamodule.train_data
        others = other_samples(whole, self._shots)
        if len(others) == 0:
            return others
        drawn = draw_shots(relative_names(others.image_path), min(len(others), _LOOKED_AT), self._seed, "validation")
        others = others.iloc[sorted(drawn)]
        plain = _with_augmentations(whole, None)
        places = whole.samples.index.get_indexer(others.index).tolist()
        looked_at = [thumbnail(images_of(plain[place]).unsqueeze(0)) for place in places]
        held = [thumbnail(self.image(number)) for number in range(min(len(self), _LOOKED_AT))]
        parts = parts_of([*held, *looked_at])[len(held) :]
        apart = [part >= len(held) for part in parts]
        if not all(apart):
            logger.warning(
                "%d images show the same part as a shot (copies, or frames of a video), such as %s: no threshold rests "
                "on them.",
                apart.count(False),
                others.image_path.iloc[apart.index(False)],
            )
        return others[apart]

    def _validation_loader(self, others: pd.DataFrame) -> DataLoader:
        whole = self._datamodule.train_data
        images = images_to_validate_on(whole, self._shots, self._seed, self._input_size, self._transform, others)
        return DataLoader(images, batch_size=self._datamodule.eval_batch_size, collate_fn=images.collate_fn)


def _same(loader: DataLoader) -> DataLoader:
    return loader


class EpochSampler(Sampler[int]):
    """A random order that depends on a seed and the epoch alone, not on what drew random numbers before.

    Args:
        length: Number of samples.
        seed: Seed of the order.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self._length, self._seed, self._epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, whose order is drawn; Lightning calls it at the start of each."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Yield the order of the present epoch."""
        generator = torch.Generator().manual_seed((self._seed << 20) + self._epoch)  # seeds a million epochs apart
        yield from torch.randperm(self._length, generator=generator).tolist()


def images_to_validate_on(
    dataset: AnomalibDataset,
    shots: AnomalibDataset,
    seed: int,
    image_size: tuple[int, int],
    transform: Transform | None = None,
    others: pd.DataFrame | None = None,
) -> AnomalibDataset:
    """Return normal images with empty masks to take a threshold from: others than the shots, else the shots.

    The shots are then judged by a memory that does not hold them, see :mod:`.held_out`.

    Args:
        dataset: The whole training set.
        shots: The shots, which the memory holds and which therefore score lower than any other normal image.
        seed: Seed of the draw where there are more than :data:`.MAX_VALIDATION_IMAGES`.
        image_size: Height and width of the images.
        transform: Transform of the model's pre-processor, whose kind of resizing they get.
        others: Rows of the training set that may be used; ``None`` for all that are no shots.
    """
    others = other_samples(dataset, shots) if others is None else others
    if len(others) == 0:
        dataset, others = shots, shots.samples
    return _with_augmentations(draw_validation_images(dataset, others, seed), resize_like(transform, image_size))


def _set_aside(subset: AnomalibDataset | None, training: AnomalibDataset) -> list[str]:
    """Return the files, at most ten, that a datamodule has taken from the folder of its training images."""
    if subset is None or not len(subset) or not len(training):
        return []
    folders = {str(Path(path).parent) for path in training.samples.image_path}
    taken = [str(path) for path in subset.samples.image_path if str(Path(path).parent) in folders]
    return [Path(path).name for path in taken[:10]] + ([f"and {len(taken) - 10} more"] if len(taken) > 10 else [])


def _with_augmentations(dataset: AnomalibDataset, augmentations: Transform | None) -> AnomalibDataset:
    dataset = copy.copy(dataset)
    dataset.augmentations = augmentations
    return dataset


def _append(augmentations: Transform | None, resize: Resize) -> Transform:
    return resize if augmentations is None else Compose([augmentations, resize])
