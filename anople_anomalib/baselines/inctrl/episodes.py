# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What InCTRL learns from: balanced batches of labeled images, each with a context of normal images of its category."""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import NamedTuple

import torch
from anomalib.data import AnomalibDataset

from anople_anomalib.baselines.transfer import AuxiliaryCategory
from anople_anomalib.method.anomaly_simulation import PHOTOGRAPHS, PixelAnomalySimulator
from anople_anomalib.utils.batches import images_of


class Episodes(NamedTuple):
    """A batch."""

    images: torch.Tensor  # B images to judge, values in [0, 1], shape ``(B, 3, h, w)``
    labels: torch.Tensor  # shape ``(B,)``, 1 where anomalous
    categories: torch.Tensor  # numbers of their categories, shape ``(B,)``
    context: torch.Tensor  # S normal images for each, one image's behind the other's, shape ``(B * S, 3, h, w)``


class _Image(NamedTuple):
    """An image that is not read yet."""

    dataset: AnomalibDataset
    row: int
    category: int
    is_train: bool

    def read(self) -> torch.Tensor:
        """Read it, shape ``(3, h, w)``."""
        return images_of(self.dataset[self.row])


class EpisodeSource:
    """Source of the batches of an epoch: half normal and half anomalous ones, every image of the larger half once.

    Where no category has an anomalous image, they are simulated on the normal ones.

    Args:
        auxiliary: The data by category.
        batch_size: Number of images of a batch, at least 2.
        shots: S; where a category has fewer other training images, so many.

    Raises:
        ValueError: If a category has fewer than two training images.
    """

    def __init__(self, auxiliary: Mapping[str, AuxiliaryCategory], batch_size: int, shots: int) -> None:
        self.train = [category.train for category in auxiliary.values()]
        smallest = min(auxiliary, key=lambda name: len(auxiliary[name].train))
        self.shots = min(shots, len(auxiliary[smallest].train) - 1)
        if self.shots < 1:
            msg = f"InCTRL needs two normal training images of every auxiliary category, '{smallest}' has fewer."
            raise ValueError(msg)
        self.half = batch_size // 2
        self.normal, self.anomalous = (list(_labeled(auxiliary, label)) for label in (0, 1))
        self.simulator = None if self.anomalous else PixelAnomalySimulator(PHOTOGRAPHS, probability=1)

    def __iter__(self) -> Iterator[Episodes]:
        """Yield the batches of an epoch, in another order every time."""
        others = self.anomalous or self.normal
        length = max(len(self.normal), len(others))
        orders = [_repeated(images, length) for images in (self.normal, others)]
        for start in range(0, length, self.half):
            normal, anomalous = (order[start : start + self.half] for order in orders)
            images = torch.stack([each.read() for each in (*normal, *anomalous)])
            labels = torch.cat([torch.zeros(len(normal)), torch.ones(len(anomalous))])
            if self.simulator is not None:
                damaged, masks = self.simulator(images[len(normal) :])
                images = torch.cat([images[: len(normal)], damaged])
                labels[len(normal) :] = masks.flatten(1).amax(dim=1)
            context = torch.stack([shot for each in (*normal, *anomalous) for shot in self._context(each)])
            categories = torch.tensor([each.category for each in (*normal, *anomalous)])
            yield Episodes(images, labels, categories, context)

    def _context(self, image: _Image) -> list[torch.Tensor]:
        """Read S training images of an image's category other than itself."""
        train = self.train[image.category]
        own = image.row if image.is_train else None
        chosen = [index for index in torch.randperm(len(train)).tolist() if index != own][: self.shots]
        return [images_of(train[index]) for index in chosen]


def _labeled(auxiliary: Mapping[str, AuxiliaryCategory], label: int) -> Iterator[_Image]:
    """Yield the images of a label, the training images among them."""
    for number, category in enumerate(auxiliary.values()):
        for dataset in category:
            for index, own in enumerate(dataset.samples.label_index):
                if int(own) == label:
                    yield _Image(dataset, index, number, dataset is category.train)


def _repeated(images: list[_Image], length: int) -> list[_Image]:
    """Return images in random orders, one order behind the other, up to a length."""
    order = torch.cat([torch.randperm(len(images)) for _ in range(ceil(length / len(images)))])
    return [images[index] for index in order[:length].tolist()]
