# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One small picture per category of what a job's model sees: the image with the ground truth, and the anomaly map."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from anople_anomalib.data.image_reading import open_image
from anople_anomalib.deployment.heat_maps import with_heat, with_outline
from anople_anomalib.utils.files import written_whole
from anople_anomalib.utils.palette import SKY_BLUE

_SIDE = 112  # pixels


class _Example(NamedTuple):
    """An image by its path, its mask of shape ``(h, w)`` or ``None``, and its raw map of shape ``(h, w)``."""

    path: str
    truth: np.ndarray | None
    heat: np.ndarray


class ExampleMaps(Callback):
    """Keeps the map of the first anomalous test image of every category.

    The first one by the order of the test set: the same for every method, and chosen by nobody's score. Given to the
    trainer in front of the model's own callbacks, it sees raw maps.

    Args:
        categories: Names of the categories of the data.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self._categories = list(categories)
        self._examples: dict[str, _Example] = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the maps of categories that have none yet."""
        del pl_module, outputs, batch_idx, dataloader_idx
        if batch.anomaly_map is None or batch.gt_label is None or len(self._examples) == len(self._categories):
            return
        for row in torch.as_tensor(batch.gt_label).flatten().nonzero().flatten().tolist():
            path = (batch.image_path or [])[row]
            category = self._category(trainer, path)
            if category not in self._examples:
                truth = None if batch.gt_mask is None else _plane(batch.gt_mask[row]) > 0
                self._examples[category] = _Example(path, truth, _plane(batch.anomaly_map[row]))

    def save(self, folder: Path) -> None:
        """Write the pictures, a JPEG file of 224 x 112 pixels per category."""
        for category, example in self._examples.items():
            with written_whole(folder / f"{category}.jpg") as temporary:
                _draw(example).save(temporary, format="JPEG", quality=70)

    def _category(self, trainer: Trainer, path: str) -> str:
        """Return the category of an image."""
        category_of = getattr(getattr(trainer, "datamodule", None), "category_of", None)
        return category_of(path) if category_of is not None and len(self._categories) > 1 else self._categories[0]


def categories_of(datamodule: AnomalibDataModule) -> list[str]:
    """Return the categories of a datamodule; the only one's name where it has one."""
    return getattr(datamodule, "categories", None) or [datamodule.category or datamodule.name]


def _draw(example: _Example) -> Image.Image:
    """Draw image and map side by side."""
    size = (_SIDE, _SIDE)
    photo = np.asarray(open_image(example.path).convert("RGB").resize(size, Image.Resampling.BILINEAR))
    left = photo if example.truth is None else with_outline(photo, example.truth, SKY_BLUE)
    low, high = float(example.heat.min()), float(example.heat.max())
    right = with_heat(photo, ((example.heat - low) / max(high - low, 1e-12)).astype(np.float32))
    return Image.fromarray(np.concatenate([left, right], axis=1))


def _plane(tensor: torch.Tensor) -> np.ndarray:
    """Return a map or mask as an array of shape ``(h, w)``, dtype float32."""
    return tensor.detach().reshape(tensor.shape[-2:]).float().cpu().numpy()
