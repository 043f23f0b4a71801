# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The end of a training run: when it is, and what is computed of the final weights before they are used or saved."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from anomalib.data import Batch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anople_anomalib.method.state_checks import require_trained

logger = logging.getLogger(__name__)

NEVER = 2**31
"""A ``val_check_interval``, in steps, that no training run reaches."""


class TrainerArguments(dict[str, Any]):
    """Arguments for anomalib's engine: one device, one validation, and a number of epochs that gives way.

    Validation is due at no step and after no epoch; :meth:`Finalization.on_train_batch_end` stops the
    trainer after the last step, and Lightning validates before it stops.

    anomalib's engine compares every argument with the user's and then replaces the user's. ``max_epochs`` is therefore
    handed out twice: first as a question, which notes the number that it is compared with, and then as the answer.

    Args:
        epochs: Number of epochs where the user gives none.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(
            max_epochs=epochs, devices=1, num_sanity_val_steps=0, check_val_every_n_epoch=None, val_check_interval=NEVER
        )

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]  # read once, in this order
        """Yield the arguments."""
        question = _Question()
        yield "max_epochs", question
        yield "max_epochs", self["max_epochs"] if question.typed is None else question.typed
        yield from ((name, value) for name, value in super().items() if name != "max_epochs")


class _Question:
    """Notes what it is compared with, and differs from nothing."""

    typed: object = None

    def __ne__(self, other: object) -> bool:
        self.typed = other
        return False

    __hash__ = None  # type: ignore[assignment]  # compared alone


def training_ends(trainer: Trainer) -> bool:
    """Return whether no training step will follow: the last batch or step was reached, or a stop is due."""
    epochs = trainer.fit_loop.max_epochs
    return (
        trainer.should_stop
        or 0 <= trainer.max_steps <= trainer.global_step
        or (trainer.is_last_batch and epochs is not None and 0 <= epochs <= trainer.current_epoch + 1)
    )


def validates_at_the_end(trainer: Trainer) -> bool:
    """Return whether a trainer validates when it is stopped, and never else: see :class:`TrainerArguments`."""
    return trainer.check_val_every_n_epoch is None and trainer.val_check_interval == NEVER


class Finalization(LightningModule, ABC):
    """Lightning hooks that call ``finalize`` after the last training step, mixed into the model.

    Four events can be the first after the last step, whatever ended the training run: the one validation, the end of
    the epoch, a checkpoint, and the end of training.
    """

    @property
    @abstractmethod
    def is_finalized(self) -> bool:
        """Whether what is computed from the weights belongs to the present ones."""

    @abstractmethod
    def finalize(self) -> None:
        """Compute it."""

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Validate after the last step."""
        del outputs, batch, batch_idx
        if validates_at_the_end(self.trainer) and training_ends(self.trainer):
            self.trainer.should_stop = True  # Lightning's own signal, which it heeds with a validation

    def on_validation_start(self) -> None:
        """Finalize the model before the validation that ends a training run."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.require_training()
        elif self.trainer.sanity_checking or not self.is_finalized:
            self.finalize()

    def on_train_epoch_end(self) -> None:
        """Finalize the model after the last epoch where there was no validation."""
        if training_ends(self.trainer) and not self.is_finalized:
            self.finalize()

    def on_train_end(self) -> None:
        """Finalize the model, whatever ended the training run, and say so where it has no threshold."""
        if not self.is_finalized:
            self.finalize()
        threshold = getattr(self.post_processor, "image_threshold", None)
        if threshold is not None and threshold.isnan():
            logger.warning(
                "There was no validation, so that there is no threshold: the model gives scores, no verdict."
            )

    def on_test_start(self) -> None:
        """Refuse to test what was not trained."""
        self.require_training()

    def on_predict_start(self) -> None:
        """Refuse to predict with what was not trained."""
        self.require_training()

    def require_training(self) -> None:
        """Refuse to use what was not trained: a ``RuntimeError``."""
        require_trained(type(self).__name__, trained=self.is_finalized)
