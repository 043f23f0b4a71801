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
    """Callback that keeps the raw scores of the present batch.

    Lightning calls callbacks in the order of the trainer's list. anomalib's post-processor stands there before the
    evaluator, and replaces a batch's scores by normalized ones, clamped to [0, 1]: this callback comes before both.
    """

    def __init__(self) -> None:
        self._scores: RawScores | None = None

    def attach(self, trainer: Trainer) -> None:
        """Take the first place among a trainer's callbacks, instead of any other keeper.

        Args:
            trainer: The trainer, before its first batch.
        """
        _replace(trainer, [self, *(each for each in _callbacks(trainer) if not isinstance(each, RawScoreKeeper))])

    def detach(self, trainer: Trainer) -> None:
        """Undo :meth:`attach`."""
        _replace(trainer, [callback for callback in _callbacks(trainer) if callback is not self])

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's scores until :meth:`take`."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        self._scores = RawScores(getattr(batch, "pred_score", None), getattr(batch, "anomaly_map", None))

    def take(self, batch: Batch) -> RawScores:
        """Return the raw scores of the present batch, once.

        Args:
            batch: The batch; where nothing was kept, its own scores are the raw ones.
        """
        kept, self._scores = self._scores, None
        return kept or RawScores(getattr(batch, "pred_score", None), getattr(batch, "anomaly_map", None))


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it


def _replace(trainer: Trainer, callbacks: list[Callback]) -> None:
    """Give a trainer another list: Lightning may be running through the old one."""
    trainer.callbacks = callbacks  # type: ignore[attr-defined]
