# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A visualizer that puts the figures of this package into the results of ``anomalib train`` and ``anomalib test``."""

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure

from anople_anomalib.anople import AnoPLe
from anople_anomalib.deployment.heat_maps import HeatMaps
from anople_anomalib.utils.batches import datamodule_of

from .explanation import draw_nearest_normal, shots_of
from .gallery import draw_gallery
from .inside import draw_maps, draw_prompt_attention, draw_view_attention, evidence_of
from .numbers import PREFIX, draw_training_curves, features_figure, scores_figure
from .samples import collate, error_of

logger = logging.getLogger(__name__)


class PanelVisualizer(HeatMaps):
    """The default visualizer, which draws a panel for every image, with figures of the whole test at its end.

    They go to the folder ``summary``: failures first, the highest scores, the histogram of the scores, the features,
    the maps of decoder and memory, attention, the nearest normal patches, and the training curves if the model was
    trained in the same run. Models other than AnoPLe get only those that need no look inside, a second pass per image.

    Args:
        output_dir: Folder of the images; ``None`` for ``images`` in the results of the run.
        max_rows: Largest number of images in a figure of the whole test.

    Raises:
        ValueError: If ``max_rows`` is smaller than 1.
    """

    def __init__(self, output_dir: str | Path | None = None, max_rows: int = 6) -> None:
        super().__init__(output_dir)
        if max_rows < 1:
            msg = f"max_rows must be 1 or more, got {max_rows}."
            raise ValueError(msg)
        self.max_rows = max_rows
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._forget()

    def _forget(self) -> None:
        """Start anew: of a test, a few numbers of every image are kept, and ``max_rows`` whole images of each kind."""
        self._failures: list[ImageItem] = []
        self._highest: list[ImageItem] = []
        self._scores: list[float] = []
        self._labels: list[bool] = []  # of as many images as have one
        self._embeddings: list[torch.Tensor] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the losses of an epoch."""
        del pl_module
        for name, value in trainer.callback_metrics.items():
            if name.startswith(PREFIX):
                self._losses[name].append(float(value))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Draw the panels of a batch, and record the numbers behind the figures of the whole test."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)
        items = [item for item in batch if item.pred_score is not None]
        if items and isinstance(pl_module, AnoPLe):
            self._embeddings += evidence_of(pl_module, collate(items)).embeddings
        self._scores += map(_score, items)
        labeled = [item for item in items if item.gt_label is not None]
        self._labels += [bool(item.gt_label) for item in labeled]
        self._highest = sorted([*self._highest, *items], key=_score, reverse=True)[: self.max_rows]
        failures = sorted([*self._failures, *labeled], key=lambda item: -error_of(_score(item), bool(item.gt_label)))
        self._failures = failures[: self.max_rows]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures of the whole test."""
        for name, draw in self._summaries(trainer, pl_module).items():
            try:
                figure = draw()
            except ValueError as error:  # one figure less is no reason to lose a test
                logger.warning("No image %r: %s", name, error)
                continue
            folder = self.folder_in(trainer) / "summary"
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"{name}.png")
        self._forget()  # the visualizer outlives the test

    on_predict_end = on_test_end

    def _summaries(self, trainer: Trainer, model: LightningModule) -> dict[str, Callable[[], Figure]]:
        """Return functions that draw the figures of the whole test that this run allows, by name."""
        summaries: dict[str, Callable[[], Figure]] = {}
        if self._losses:
            summaries["training_curves"] = lambda: draw_training_curves(self._losses)
        if not self._scores:
            return summaries
        highest, labels = collate(self._highest), np.array(self._labels, dtype=bool)
        summaries["highest"] = lambda: draw_gallery([highest], max_rows=self.max_rows)
        labeled = len(labels) == len(self._scores)
        if labeled:
            failures = collate(self._failures)
            summaries["failures"] = lambda: draw_gallery([failures], max_rows=self.max_rows)
            summaries["scores"] = lambda: scores_figure({"": (np.array(self._scores), labels)})
        if isinstance(model, AnoPLe):
            summaries["maps"] = lambda: draw_maps(model, highest)
            summaries["attention_prompts"] = lambda: draw_prompt_attention(model, highest)
            summaries["attention_views"] = lambda: draw_view_attention(model, highest)
            if labeled:
                embeddings, truth = torch.stack(self._embeddings), torch.from_numpy(labels)
                summaries["features"] = lambda: features_figure(embeddings, truth, model.model.text_features)
            datamodule = datamodule_of(trainer)
            if datamodule is not None and model.model.memory_bank is not None:
                summaries["nearest_normal"] = lambda: draw_nearest_normal(model, highest, shots_of(model, datamodule))
        return summaries


def _score(item: ImageItem) -> float:
    return float(item.pred_score or 0)
