# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Two numbers that tell a sound training step from one whose texts or whose decoder have collapsed, and a warning."""

import logging
from collections import deque

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from anople_anomalib.method.torch_model import TrainingOutput

logger = logging.getLogger(__name__)

MAX_TEXT_COSINE = 0.99
"""Cosine of w+ and w- above which the texts count as the same."""
MIN_MAP_SPREAD = 0.05
"""Range of M_hat below which the decoder counts as constant. Where the texts had become the same (cosine 0.998), 98 %
of the pixels of test images lay within 0.002 to 0.032 of each other."""
_EPOCHS = 10  # by chance, all images of one epoch may be undamaged, and their maps rightly flat


@torch.no_grad()
def measure_soundness(output: TrainingOutput) -> dict[str, torch.Tensor]:
    """Measure how far apart the texts are, and the values of the decoder's map.

    Where w+ and w- are the same, no feature can be told to be nearer to one of them: (7) and (8) are one half
    everywhere. A decoder that gives all pixels one value leaves the fused map (12) a copy of the memory's.

    Args:
        output: Of a training step.

    Returns:
        ``text_cosine``, the cosine of w+ and w-, in [-1, 1]; with a decoder also ``map_spread``, the largest minus the
        smallest value of M_hat over all views, in [0, 1]. Scalars.
    """
    normal_text, abnormal_text = output.text_features.float()  # (w+, w-), L2-normalized
    numbers = {"text_cosine": normal_text @ abnormal_text}
    if output.pixel_logits is not None:
        abnormal = output.pixel_logits.float().softmax(dim=1)[:, 1]  # M_hat, (V, h, w)
        numbers["map_spread"] = abnormal.max() - abnormal.min()
    return numbers


class CollapseWarning(Callback):
    """Warns in one line at the end of a training run on what ``train_text_cosine`` and ``train_map_spread`` say.

    The model logs both, see :func:`measure_soundness`. Of the map's range the largest of the last
    ten epochs counts.
    """

    def __init__(self) -> None:
        self.text_cosine: float | None = None
        self.map_spreads: deque[float] = deque(maxlen=_EPOCHS)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the run before."""
        del trainer, pl_module
        self.__init__()  # type: ignore[misc]  # a fresh start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the epoch has logged."""
        del pl_module
        metrics = trainer.callback_metrics
        if (cosine := metrics.get("train_text_cosine")) is not None:
            self.text_cosine = float(cosine)
        if (spread := metrics.get("train_map_spread")) is not None:
            self.map_spreads.append(float(spread))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn on collapse; a decoder that has seen no simulated anomaly is rightly constant."""
        del trainer
        problems = []
        if self.text_cosine is not None and self.text_cosine > MAX_TEXT_COSINE:
            problems.append(f"the texts of both states have become the same (cosine {self.text_cosine:.3f})")
        spread = max(self.map_spreads, default=1.0)
        if spread < MIN_MAP_SPREAD and getattr(pl_module, "simulator", None) is not None:
            problems.append(f"the decoder gives every pixel the same value (range {spread:.3f})")
        if problems:
            logger.warning(
                "This training run has collapsed: %s. Its prompts tell nothing then; docs/training.md has what helps.",
                " and ".join(problems),
            )
