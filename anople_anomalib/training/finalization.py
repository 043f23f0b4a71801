# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""When a model is finalized: what depends on its final weights is computed before anything evaluates or saves it."""

import logging
from abc import ABC, abstractmethod

from anomalib.data import Batch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anople_anomalib.method.state_checks import require_trained

from .run import training_ends, validates_at_the_end

logger = logging.getLogger(__name__)


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
        """Refuse to use what was not trained.

        Raises:
            RuntimeError: If the model is not finalized.
        """
        require_trained(type(self).__name__, trained=self.is_finalized)
