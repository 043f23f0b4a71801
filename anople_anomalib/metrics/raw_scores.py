# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Raw scores for the metrics: what the model said, before a post-processor maps it to [0, 1]."""

from typing import Any, NamedTuple

from anomalib.data import Batch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class RawScores(NamedTuple):
    """Scores and maps of one batch as the model gave them.

    Attributes:
        pred_score: One score per image, or ``None``.
        anomaly_map: Maps of shape ``(B, H, W)``, with or without a channel, or ``None``.
    """

    pred_score: Tensor | None
    anomaly_map: Tensor | None


class RawScoreKeeper(Callback):
    """Callback that keeps images and raw scores of the present batch, for callbacks after the processors.

    Lightning calls callbacks in the order of the trainer's list. anomalib's post-processor stands there before the
    evaluator, and replaces a batch's scores by normalized ones, clamped to [0, 1]: this callback comes before both, and
    before the pre-processor, which replaces the images.

    Attributes:
        images: Images of the batch as they were read, shape ``(B, 3, H, W)``, values in [0, 1].
    """

    def __init__(self) -> None:
        self._scores: RawScores | None = None
        self.images: Tensor | None = None

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Keep the images of a batch."""
        del trainer, pl_module, args, kwargs
        self.images = getattr(batch, "image", None)

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Keep the images of a batch."""
        self.on_test_batch_start(trainer, pl_module, batch, *args, **kwargs)

    @classmethod
    def of(cls, trainer: Trainer) -> "RawScoreKeeper":
        """Return a trainer's keeper; one that has none gets one, before all other callbacks.

        Args:
            trainer: The trainer, before its first batch.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
        keeper = next((callback for callback in callbacks if isinstance(callback, cls)), None)
        if keeper is None:
            keeper = cls()
            trainer.callbacks = [keeper, *callbacks]  # type: ignore[attr-defined]  # it may run through the old list
        return keeper

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Keep the scores of a test batch."""
        del trainer, pl_module, args, kwargs
        self._scores = RawScores(getattr(outputs, "pred_score", None), getattr(outputs, "anomaly_map", None))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Keep the scores of a batch of predictions."""
        self.on_test_batch_end(trainer, pl_module, outputs, *args, **kwargs)

    def of_batch(self, batch: Batch) -> RawScores:
        """Return the raw scores of the present batch.

        Args:
            batch: The batch; where nothing was kept, its own scores are the raw ones.
        """
        return self._scores or RawScores(getattr(batch, "pred_score", None), getattr(batch, "anomaly_map", None))
