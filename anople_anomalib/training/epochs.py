# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""When a training run ends, and what is validated and saved until then."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.trainer.states import TrainerFn

from anople_anomalib.utils.scoped import replaced

from .undone_changes import UndoneChanges

NEVER = 2**31
"""A ``check_val_every_n_epoch`` that no training run reaches."""


class DefaultEpochs(int):
    """A number of epochs that gives way to whatever the user typed.

    anomalib's engine replaces a trainer argument that differs from the model's. This number differs from "not given"
    only, so that ``--trainer.max_epochs`` and ``Engine(max_epochs=...)`` are respected.
    """

    def __eq__(self, other: object) -> bool:
        """Equal any number."""
        return isinstance(other, int)

    def __ne__(self, other: object) -> bool:
        """Differ from ``None`` only."""
        return not self == other

    __hash__ = int.__hash__


def resolve_epochs(trainer: Trainer) -> None:
    """Turn a trainer's :class:`DefaultEpochs` into a number: no limit where steps or time have one.

    Args:
        trainer: The trainer, before its training run.
    """
    loop = trainer.fit_loop
    if isinstance(loop.max_epochs, DefaultEpochs):
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
        other_limit = trainer.max_steps >= 0 or any(isinstance(callback, Timer) for callback in callbacks)
        loop.max_epochs = -1 if other_limit else int(loop.max_epochs)


@contextmanager
def validated_once(trainer: Trainer) -> Iterator[None]:
    """Let a trainer save after every epoch, and validate when :func:`validate_now` says so, within the block.

    What the user has set otherwise (another ``check_val_every_n_epoch``, a checkpoint callback with a monitored value)
    stays.

    Args:
        trainer: The trainer, before its training run.
    """
    with ExitStack() as stack:
        stack.enter_context(replaced(trainer, "num_sanity_val_steps", 0))
        if trainer.check_val_every_n_epoch == 1:
            stack.enter_context(replaced(trainer, "check_val_every_n_epoch", NEVER))
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is None and _undecided(callback):
                # Lightning saves after no epoch if validation is not after every one.
                stack.enter_context(replaced(callback, "_save_on_train_epoch_end", True))
        yield


class OneValidation(UndoneChanges):
    """Callback of a model that validates once, after its last step, and has a default number of epochs."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change the trainer for a training run.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: Stage of the trainer.
        """
        del pl_module
        if stage == TrainerFn.FITTING:
            resolve_epochs(trainer)
            self.changes.enter_context(validated_once(trainer))


def validate_now(trainer: Trainer) -> None:
    """Let the training run end with the present step, and with a validation.

    Args:
        trainer: A trainer within :func:`validated_once`; nothing is done where the user has set when to validate.
    """
    if trainer.check_val_every_n_epoch == NEVER:
        trainer.check_val_every_n_epoch = 1
        trainer.should_stop = True


def training_ends(trainer: Trainer) -> bool:
    """Return whether no training step will follow: the last batch or step was reached, or a stop is due."""
    epochs = trainer.fit_loop.max_epochs
    return (
        trainer.should_stop
        or 0 <= trainer.max_steps <= trainer.global_step
        or (trainer.is_last_batch and epochs is not None and 0 <= epochs <= trainer.current_epoch + 1)
    )


def _undecided(callback: ModelCheckpoint) -> bool:
    return callback._save_on_train_epoch_end is None  # noqa: SLF001  # no public way to ask
