# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot transfer: a model learns from other data before it sees the k shots (``auxiliary`` in a comparison).

How a method takes part:

1. Its Lightning class is ``class Method(AuxiliaryLearner, ShotMemory, AnomalibModule)`` and has a torch model in
   ``self.model`` with a buffer ``has_learned`` (``torch.tensor(data=False)``) beside ``is_fitted``.
2. It defines :meth:`AuxiliaryLearner.learn_from_auxiliary`: a plain loop of PyTorch that trains ``self.model`` and ends
   with ``self.model.has_learned.fill_(value=True)``. The comparison calls it once, on a model of its own, which lies on
   the device of the job, is in training mode and not attached to a trainer, with torch's generators seeded by
   ``training_seed`` where that argument is given, else by the job's seed. It needs neither a cache nor a clock.
3. What it has learned is the state dict of ``self.model``; the comparison keeps it in a file, and loads it into the
   model of every job with the same data, arguments and seed, before that is fitted to its k shots. So everything
   learned is a parameter or a buffer; those that depend on the shots are empty then.

The data are one :class:`AuxiliaryCategory` per category. Items are anomalib's ``ImageItem``: ``image`` of shape
``(3, h, w)``, values in [0, 1], *not* normalized, resized to the size of the model's pre-processor; ``gt_label``
0 or 1; ``gt_mask`` of shape ``(h, w)``, ``None`` where there is no mask. Batches come from
``DataLoader(category.train, batch_size, shuffle=True, collate_fn=category.train.collate_fn)``, and
``self.pre_processor.transform(batch.image)`` normalizes them as at the test.

Example:
    >>> from anople_anomalib.baselines.transfer import auxiliary_data
    >>> data = auxiliary_data("SampleTextures", ["grass", "gravel"])
    >>> {name: (len(category.train), len(category.test)) for name, category in data.items()}
    {'grass': (12, 45), 'gravel': (12, 50)}
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anomalib.data import AnomalibDataset
from lightning.pytorch import LightningModule
from torch import nn
from torchvision.transforms.v2 import Resize, Transform

from anople_anomalib.data import FewShot
from anople_anomalib.utils.transforms import flat


class AuxiliaryCategory(NamedTuple):
    """A category of the data that a model learns from before it sees the k shots."""

    train: AnomalibDataset  # its normal training images
    test: AnomalibDataset  # its test images, normal and anomalous, with masks where the data set has them


SIMULATED = "simulated anomalies"
"""Remark of a method that simulates the anomalies that it learns from."""


class AuxiliaryLearner(LightningModule, ABC):
    """Mixin of a model that learns from auxiliary data before it sees the shots; see the module on how it is used."""

    model: nn.Module

    @property
    def needs_auxiliary(self) -> bool:
        """Whether map or score depend on the auxiliary data; always by default."""
        return True

    @abstractmethod
    def learn_from_auxiliary(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> None:
        """Train ``self.model`` on other data than those that it is tested on.

        Args:
            auxiliary: The data by category, of :func:`auxiliary_data`; at least one.
        """

    def remark(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> str:
        """Return the remark of a row on the auxiliary data, beside their names; empty by default."""
        del auxiliary
        return ""

    def on_fit_start(self) -> None:
        """Refuse to see the shots before anything was learned.

        Raises:
            ValueError: If the model has learned nothing and needs to.
        """
        super().on_fit_start()
        if self.needs_auxiliary and not self.model.get_buffer("has_learned"):
            name = type(self).__name__
            msg = (
                f"{name} learns from other data before it sees the shots, and was given none: name them as `auxiliary` "
                f"of the model in a comparison (anople compare), or call {name}.learn_from_auxiliary()."
            )
            raise ValueError(msg)


def auxiliary_data(
    datamodule: Any, categories: Sequence[str], transform: Transform | None = None
) -> dict[str, AuxiliaryCategory]:
    """Read the data that a model learns from.

    Args:
        datamodule: A datamodule, as :class:`~anople_anomalib.data.FewShot` takes it.
        categories: Names of its categories.
        transform: Transform of the model's pre-processor, whose resizing is done here; ``None`` for no resizing.

    Returns:
        The data by category; images are read when they are asked for.

    Raises:
        ValueError: If a category is unknown, or its images cannot be read right.
    """
    resize = next((part for part in flat(transform) if isinstance(part, Resize)), None)
    found = {}
    for name in categories:
        data = FewShot(datamodule, [name], k_shot=None)
        data.prepare_data()
        data.setup()
        found[name] = AuxiliaryCategory(data.train_data, data.test_data)
        for subset in found[name]:
            subset.augmentations = resize
    return found
