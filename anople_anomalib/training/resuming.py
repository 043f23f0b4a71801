# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The test after a resumed training run sees the weights at its end."""

import logging
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn

from anople_anomalib.utils.finalizable import Finalizable
from anople_anomalib.utils.trainers import trainer_of

logger = logging.getLogger(__name__)


class Resuming(Finalizable):
    """Lightning hooks for a training run resumed from a checkpoint, mixed into the model.

    anomalib's ``Engine.train`` gives its ``ckpt_path`` to the test as well, which would undo the training run.
    """

    _resumed_from: str | None = None

    def setup(self, stage: str) -> None:
        """Forget the checkpoint of an earlier training run.

        Args:
            stage: Stage of the trainer.
        """
        super().setup(stage)
        if stage == TrainerFn.FITTING:
            self._resumed_from = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the test after a resumed training run keep the weights of its end."""
        super().on_load_checkpoint(checkpoint)
        trainer = trainer_of(self)
        if trainer is None:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            self._resumed_from = str(trainer.ckpt_path)
        elif trainer.state.fn == TrainerFn.TESTING:
            if str(trainer.ckpt_path) == self._resumed_from and self.is_finalized:
                logger.info("Testing the weights at the end of the training run resumed from %s.", trainer.ckpt_path)
                checkpoint["state_dict"] = self.state_dict()
                checkpoint.pop("callbacks", None)  # else best_model_path would be the old file again
            self._resumed_from = None  # the next test is of the file that it names
