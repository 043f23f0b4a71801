# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A visualizer that puts the images of this package into the results of ``anomalib train`` and ``anomalib test``."""

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure

from anople_anomalib.anople import AnoPLe

from .attention import draw_prompt_attention, draw_view_attention
from .explanation import draw_nearest_normal, shots_of
from .features import features_figure
from .gallery import gallery_of
from .panel import draw_panel
from .passes import evidence_of
from .record import Record
from .samples import collate, sample_of
from .scores import scores_figure
from .training_curves import PREFIX, draw_training_curves

logger = logging.getLogger(__name__)

SUMMARY = "summary"
"""Folder of the images that are about the whole test, beside those of the single images."""


class PanelVisualizer(ImageVisualizer):
    """Visualizer that draws a panel for every tested image, and at the end images of the whole test.

    A panel shows an image, its ground truth, what the decoder and the memory make of it, the anomaly map and the
    pixels above the threshold. The images of the whole test go to the folder ``summary``: failures first, the
    highest scores, the histogram of the scores, the features, attention, the nearest normal patches, and the training
    curves if the model was trained in the same run. Models other than AnoPLe get only those that need no look inside.

    The command line takes it as ``--model.visualizer anople_anomalib.visualization.PanelVisualizer``. The look inside
    costs a second pass per image, and a panel takes longer to draw than anomalib's own image.

    Args:
        output_dir: Folder of the images; ``None`` for ``images`` in the results of the run.
        panels: Whether to draw a panel for every image.
        max_rows: Largest number of images in an image of the whole test.

    Raises:
        ValueError: If ``max_rows`` is smaller than 1.
    """

    def __init__(self, output_dir: str | Path | None = None, panels: bool = True, max_rows: int = 6) -> None:
        super().__init__(output_dir=output_dir)
        if max_rows < 1:
            msg = f"max_rows must be 1 or more, got {max_rows}."
            raise ValueError(msg)
        self.panels, self.max_rows = panels, max_rows
        self._record = Record(max_rows)
        self._losses: dict[str, list[float]] = defaultdict(list)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the losses of an epoch."""
        del pl_module
        for name, value in trainer.callback_metrics.items():
            if name.startswith(PREFIX):
                self._losses[name].append(float(value))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the panels of a batch, and record what the images of the whole test need."""
        del outputs, batch_idx, dataloader_idx
        evidence = evidence_of(pl_module, batch) if isinstance(pl_module, AnoPLe) else None
        for index, item in enumerate(batch):
            self._record.add(item, None if evidence is None else evidence.embeddings[index])
            if self.panels:
                figure = draw_panel(sample_of(item), evidence, index)
                figure.savefig(self._file_of(trainer, item.image_path))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the images of the whole test."""
        folder = self._folder(trainer) / SUMMARY
        for name, draw in self._summaries(trainer, pl_module).items():
            try:
                figure = draw()
            except ValueError as error:  # one image less is no reason to lose a test
                logger.warning("No image %r: %s", name, error)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"{name}.png")
        # the visualizer outlives the test: the next one starts anew
        self._record = Record(self.max_rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the images of all predictions."""
        self.on_test_end(trainer, pl_module)

    def _summaries(self, trainer: Trainer, model: LightningModule) -> dict[str, Callable[[], Figure]]:
        """Return functions that draw the images of the whole test that this run allows, by name."""
        record, summaries = self._record, {}
        if self._losses:
            summaries["training_curves"] = lambda: draw_training_curves(self._losses)
        if not record.scores:
            return summaries
        summaries["highest"] = lambda: gallery_of([[sample_of(item)] for item in record.highest], [""])
        if record.has_labels:
            scores = np.array(record.scores), np.array(record.labels, dtype=bool)
            summaries["failures"] = lambda: gallery_of([[sample_of(item)] for item in record.failures], [""])
            summaries["scores"] = lambda: scores_figure({"": scores})
        if isinstance(model, AnoPLe):
            highest = collate(record.highest)
            summaries["attention_prompts"] = lambda: draw_prompt_attention(model, highest)
            summaries["attention_views"] = lambda: draw_view_attention(model, highest)
            if record.has_labels:
                embeddings = torch.stack(record.embeddings)
                summaries["features"] = lambda: features_figure(embeddings, record.labels, model.model.text_features)
            datamodule = getattr(trainer, "datamodule", None)
            if datamodule is not None and model.model.memory_bank is not None:
                summaries["nearest_normal"] = lambda: draw_nearest_normal(model, highest, shots_of(model, datamodule))
        return summaries

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.output_dir or Path(trainer.default_root_dir) / "images")

    def _file_of(self, trainer: Trainer, image_path: str | None) -> Path:
        """Return where the panel of an image goes: by anomalib's rule, always a PNG file."""
        datamodule = getattr(trainer, "datamodule", None)
        file = generate_output_filename(
            input_path=image_path or f"{len(self._record.scores) - 1:04d}",
            output_path=self._folder(trainer),
            dataset_name=getattr(datamodule, "name", None),
            category=getattr(datamodule, "category", None),
        )
        return file.with_suffix(".png")
