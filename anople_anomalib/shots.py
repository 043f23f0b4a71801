# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The k normal images that a datamodule lends for one training."""

import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName
from torch.utils.data import DataLoader, Sampler
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from .few_shot import draw_shots

logger = logging.getLogger(__name__)


class TrainingShots:
    """A loan of shots from a datamodule.

    While it lasts, the datamodule's training set holds the shots alone, at the resolution of training, and its
    training data loader gives one image at a time; :meth:`give_back` restores it.

    Args:
        datamodule: The datamodule, set up. If it draws shots itself (it has ``drawn_samples``), they are taken as
            they are.
        k_shot: Number of shots; ``None`` for all normal images.
        seed: Seed of the draw.
        image_size: Height and width of the training images.
        order_seed: Seed of the order in which an epoch shows the shots.

    Attributes:
        names: File names of the shots, by category.

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
    ) -> None:
        self._datamodule = datamodule
        self._train_data = datamodule.train_data
        drawn = getattr(datamodule, "drawn_samples", None)
        if drawn:
            self.names = {category: list(names) for category, names in drawn.items()}
            shots = datamodule.train_data
        else:
            category = datamodule.category or datamodule.name
            shots, names = draw_normal_images(datamodule.train_data, k_shot, seed, category)
            self.names = {category: names}
        for category, names in self.names.items():
            logger.info("Shots of %s: %s", category, ", ".join(names))
        resize = Resize(image_size, interpolation=InterpolationMode.BICUBIC, antialias=True)
        self._plain = _with_augmentations(shots, None)
        datamodule.train_data = _with_augmentations(shots, _append(datamodule.train_augmentations, resize))
        self._sampler = EpochSampler(len(shots), order_seed)
        datamodule.train_dataloader = self._train_dataloader

    def give_back(self) -> None:
        """Restore the datamodule's own training set and data loader."""
        self._datamodule.train_data = self._train_data
        del self._datamodule.train_dataloader

    def images(self) -> Iterator[torch.Tensor]:
        """The shots without augmentations, each of shape ``(1, 3, H, W)``, values in [0, 1]."""
        return (self._plain[index].image.unsqueeze(0) for index in range(len(self._plain)))

    @property
    def paths(self) -> list[str]:
        """Files of the shots, in the order of :meth:`images`."""
        return self._plain.samples.image_path.tolist()

    def _train_dataloader(self) -> DataLoader:
        train_data = self._datamodule.train_data
        return DataLoader(
            train_data,
            batch_size=1,
            sampler=self._sampler,
            num_workers=self._datamodule.num_workers,
            collate_fn=self._datamodule.external_collate_fn or train_data.collate_fn,
        )


class EpochSampler(Sampler[int]):
    """A random order that depends on a seed and the epoch alone, not on what drew random numbers before.

    Args:
        length: Number of samples.
        seed: Seed of the order.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self._length, self._seed, self._epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Number of samples."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """The order of the present epoch."""
        generator = torch.Generator().manual_seed((self._seed << 20) + self._epoch)
        yield from torch.randperm(self._length, generator=generator).tolist()


def draw_normal_images(
    dataset: AnomalibDataset,
    k_shot: int | None,
    seed: int,
    category: str,
) -> tuple[AnomalibDataset, list[str]]:
    """Draw shots from the normal images of a training set, independently of the order of its files.

    Args:
        dataset: A training set of anomalib.
        k_shot: Number of shots; ``None`` for all.
        seed: Seed of the draw.
        category: Category, part of the seed and named in errors.

    Returns:
        The data set of the shots alone, and their names relative to the folder that all normal images share.

    Raises:
        ValueError: If there are fewer normal images than shots, or none.
    """
    samples = dataset.samples
    if "label_index" in samples:
        samples = samples[samples.label_index == LabelName.NORMAL]
    paths = _relative(samples.image_path)
    if not paths:
        msg = f"The training set of category '{category}' has no normal images: AnoPLe needs at least one."
        raise ValueError(msg)
    chosen = draw_shots(paths, k_shot, seed, category)
    return dataset.subsample(samples.index[chosen].tolist()), [paths[index] for index in chosen]


def _relative(paths: pd.Series) -> list[str]:
    """Paths relative to their common folder, with forward slashes."""
    absolute = [Path(path).absolute() for path in paths]
    if not absolute:
        return []
    common = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(common).as_posix() for path in absolute]


def _with_augmentations(dataset: AnomalibDataset, augmentations: Transform | None) -> AnomalibDataset:
    dataset = copy.copy(dataset)
    dataset.augmentations = augmentations
    return dataset


def _append(augmentations: Transform | None, resize: Resize) -> Transform:
    return resize if augmentations is None else Compose([augmentations, resize])
