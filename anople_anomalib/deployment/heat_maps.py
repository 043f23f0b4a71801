# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The visualizer that draws verdicts.

What is drawn are the pixels that were judged, from memory: the file may hold another part by now.
"""

from itertools import count
from pathlib import Path

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem, PredictDataset
from anomalib.data.datasets import AnomalibDataset
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from anople_anomalib.data.image_series import ImageSeries, series_in
from anople_anomalib.metrics.per_category import RawScoreKeeper, callback_of
from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.files import other_name, relative_names

from .painting import paint, picture_name, save
from .predictions import PredictionTable, frame_name


def stretched(image: torch.Tensor) -> torch.Tensor:
    """Return an image as it is where its values are in [0, 1]; a normalized one is stretched to them."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if low < 0 or high > 1 else image


def draw_verdict(item: ImageItem, image: torch.Tensor) -> Image.Image:
    """Draw a prediction by :func:`.painting.paint`.

    Args:
        item: The prediction, with maps on the scale from 0 to 1, with the threshold at 0.5.
        image: The pixels that were judged, shape ``(3, H, W)``, values in [0, 1].
    """
    pixels = torch.nan_to_num(image.detach().float()).clamp(0, 1).mul(255).byte().permute(1, 2, 0).cpu().numpy()
    truth, mask = (None if each is None else _plane(each) > 0 for each in (item.gt_mask, item.pred_mask))
    return paint(
        pixels,
        None if item.pred_score is None else float(item.pred_score),
        None if item.pred_label is None else bool(item.pred_label),
        None if item.anomaly_map is None else _plane(item.anomaly_map),
        mask,
        truth,
    )


class HeatMaps(Visualizer):
    """Visualizer of :func:`draw_verdict`, with a file of its own for every image.

    Files are named by their place below the folder that all images of the run share, so that images of the same name
    in different folders do not overwrite each other; images without a path, and others of one name that no data set of
    anomalib lists (frames of a video, arrays), are numbered.

    Args:
        output_dir: Folder of the images; ``None`` for ``images`` in the results of the run, with the number of its
            table.

    Attributes:
        output_dir: The same; of the last run where none was given.
    """

    def __init__(self, output_dir: str | Path | None = None) -> None:
        super().__init__()
        self.output_dir, self._given = output_dir, output_dir
        self._names, self._taken = dict[str, str](), set[str]()
        self._frames = count(1)
        self._series: ImageSeries | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the images of a test."""
        del pl_module
        self._start(trainer.test_dataloaders)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the images of a prediction."""
        del pl_module
        self._start(trainer.predict_dataloaders)

    def _start(self, loaders: object) -> None:
        self._names, self._frames, self._series = _names_in(loaders), count(1), series_in(loaders)
        self._taken = set(map(picture_name, self._names.values()))
        self.output_dir = self._given

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ImageBatch,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Draw and save the images of a batch."""
        del pl_module, outputs, args, kwargs
        folder = self.folder_in(trainer)
        keeper = callback_of(trainer, RawScoreKeeper)
        shown = None if keeper is None else keeper.images
        for item, image in zip(batch, map(stretched, images_of(batch)) if shown is None else shown, strict=True):
            save(draw_verdict(item, image), folder / self._name_of(item))

    on_predict_batch_end = on_test_batch_end

    def folder_in(self, trainer: Trainer) -> Path:
        """Return the folder of a run's pictures."""
        if self.output_dir is None:
            table = callback_of(trainer, PredictionTable)
            self.output_dir = Path(trainer.default_root_dir) / f"images{'' if table is None else table.number}"
        return Path(self.output_dir)

    def _name_of(self, item: ImageItem) -> str:
        """Return where the picture of an image goes, below the folder of all pictures."""
        path = item.image_path
        if path and self._series is not None:
            return picture_name(self._series.name_of(path))
        if path in self._names:
            return picture_name(self._names[path])
        name = other_name(picture_name(Path(path or frame_name(self._frames)).name), self._taken)
        self._taken.add(name)
        return name


def _plane(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Return a map or mask as an array of shape ``(h, w)``."""
    return tensor.detach().reshape(tensor.shape[-2:]).float().cpu().numpy()


def _names_in(loaders: object) -> dict[str, str]:
    """Return a name for every image of a run, by its path."""
    paths: list[str] = []
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        dataset = loader.dataset if isinstance(loader, DataLoader) else None
        if isinstance(dataset, AnomalibDataset):
            paths += map(str, dataset.samples.image_path)
        elif isinstance(dataset, PredictDataset):
            paths += map(str, dataset.image_filenames)
    return dict(zip(paths, relative_names(paths), strict=True))
