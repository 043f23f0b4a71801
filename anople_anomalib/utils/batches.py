# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Typed access to anomalib's batches and of a run's data, and tensors of several batches as those of one."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from anomalib.data import AnomalibDataModule, Batch, DatasetItem, ImageBatch
from lightning.pytorch import Trainer

_Tensors = TypeVar("_Tensors", bound=NamedTuple)


def images_of(batch: Batch[Any] | DatasetItem[Any]) -> torch.Tensor:
    """Return the images of a batch, ``(B, 3, H, W)``, or the image of an item: both have them, declared as optional."""
    return cast("torch.Tensor", batch.image)


def joined(rows: Sequence[_Tensors]) -> _Tensors:
    """Join named tuples of tensors, at least one, along their first axis; ``None`` in the first is ``None`` in all."""
    columns = zip(*rows, strict=True)
    return type(rows[0])._make(None if column[0] is None else torch.cat(column) for column in columns)


def paths_of(batch: Batch[Any]) -> list[str] | None:
    """Return the files of the images of a batch, ``None`` where they come from no file."""
    return list(batch.image_path) if isinstance(batch, ImageBatch) and batch.image_path else None


def datamodule_of(trainer: Trainer) -> AnomalibDataModule | None:
    """Return the datamodule of a run, ``None`` where it has data loaders alone."""
    return trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
