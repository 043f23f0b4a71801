# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How AnoPLe is trained inside anomalib's engine: the trainer's side of it, without maths."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, Batch
from einops import rearrange
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from anople_anomalib.checkpoints.files import guard_checkpoints
from anople_anomalib.data.image_reading import read_carefully, restore_reading
from anople_anomalib.method.state_checks import require_finite

from .distributed import evaluate_once, restore_evaluation, send_buffers
from .shots import TrainingShots

logger = logging.getLogger(__name__)

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


class EvaluationPreProcessing(Callback):
    """Calls anomalib's pre-processor at evaluation only.

    A training image is damaged and cut at twice the model's resolution, before it is resized and normalized.

    Args:
        pre_processor: The model's pre-processor.
    """

    def __init__(self, pre_processor: nn.Module) -> None:
        self.pre_processor = pre_processor

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Transform a validation batch."""
        self.pre_processor.on_validation_batch_start(*args[:4], **kwargs)

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Transform a test batch."""
        self.pre_processor.on_test_batch_start(*args, **kwargs)

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Transform a batch to predict."""
        self.pre_processor.on_predict_batch_start(*args, **kwargs)


class ReturnOfShots(Callback):
    """Gives the datamodule its training set back after a run that failed: Lightning tears nothing down then."""

    def on_exception(self, trainer: Trainer, pl_module: "FewShotTraining", exception: BaseException) -> None:
        """Tear down as after a run that succeeded."""
        del exception
        pl_module.teardown(trainer.state.fn)


class FewShotTraining(LightningModule):
    """Lightning hooks for training on k shots, mixed into the model.

    Shots are drawn before training and replace the training set until its end. Validation runs once, after the last
    step; whatever depends on the final weights is computed then, by :meth:`finalize`, so that the checkpoint of the
    last epoch holds it.

    The model defines ``finalize()``, ``is_finalized``, ``image_size`` and the hyper-parameters ``k_shot``, ``seed``,
    ``training_seed`` and ``epochs``.
    """

    drawn_samples: dict[str, list[str]]
    _shots: TrainingShots | None = None
    _resumed_from: str | None = None

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments for the trainer: the default number of epochs, which gives way to the user's."""
        return {"max_epochs": DefaultEpochs(self.hparams["epochs"])}

    def setup(self, stage: str) -> None:
        """Take care of checkpoints and images; before a training, borrow the shots and prepare the trainer.

        Args:
            stage: Stage of the trainer.
        """
        guard_checkpoints(self.trainer)
        read_carefully()
        evaluate_once(self.trainer)
        if stage != TrainerFn.FITTING:
            return
        self._resumed_from = None
        if (datamodule := getattr(self.trainer, "datamodule", None)) is not None:
            self._shots = TrainingShots(
                datamodule,
                k_shot=self.hparams["k_shot"],
                seed=self.hparams["seed"],
                image_size=self.image_size,
                order_seed=self.hparams["training_seed"],
            )
            self.drawn_samples = self._shots.names
        _prepare(self.trainer)

    def teardown(self, stage: str) -> None:
        """Give anomalib its reader, the trainer its data loaders and the datamodule its training set back.

        Args:
            stage: Stage of the trainer.
        """
        restore_reading()
        restore_evaluation(self.trainer)
        if stage == TrainerFn.FITTING and self._shots is not None:
            self._shots.give_back()
            self._shots = None

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Validate after the last step."""
        del outputs, batch, batch_idx
        if self.trainer.check_val_every_n_epoch == NEVER and training_ends(self.trainer):
            self.trainer.check_val_every_n_epoch = 1
            self.trainer.should_stop = True

    def on_validation_start(self) -> None:
        """Finalize the model before the validation that ends a training run."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.finalize()
        else:
            self._require_training()
        send_buffers(self.trainer, send=False)

    def on_validation_end(self) -> None:
        """Let several processes agree on their buffers again."""
        send_buffers(self.trainer, send=True)

    def on_train_epoch_end(self) -> None:
        """Finalize the model after the last epoch where there was no validation."""
        if training_ends(self.trainer) and not self.is_finalized:
            self.finalize()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Finalize the model before its last checkpoint where a callback stopped training after the epoch."""
        super().on_save_checkpoint(checkpoint)
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.training and trainer.should_stop and not self.is_finalized:
            self.finalize()
            checkpoint["state_dict"] = self.state_dict()
        learned = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
        require_finite(learned, where="The weights are")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the test after a resumed training run keep the weights of its end.

        anomalib's ``Engine.train`` gives its ``ckpt_path`` to the test as well, which would undo the training run.
        """
        super().on_load_checkpoint(checkpoint)
        trainer = getattr(self, "_trainer", None)
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

    def on_train_end(self) -> None:
        """Finalize the model, whatever ended the training run."""
        if not self.is_finalized:
            self.finalize()

    def on_test_start(self) -> None:
        """Refuse to test what was not trained."""
        self._require_training()

    def on_predict_start(self) -> None:
        """Refuse to predict with what was not trained."""
        self._require_training()

    def on_test_end(self) -> None:
        """Log where the images of the test are."""
        self._log_image_folder()

    def on_predict_end(self) -> None:
        """Log where the images of the prediction are."""
        self._log_image_folder()

    def _log_image_folder(self) -> None:
        folder = getattr(getattr(self, "visualizer", None), "output_dir", None)  # known from the first image on
        if folder is not None and self.trainer.is_global_zero:
            logger.info("Heat maps: %s", folder)

    def normal_images(self) -> Iterator[torch.Tensor]:
        """Yield the shots of the present training run; of several processes, each gets its share.

        Yields:
            Images of shape ``(1, 3, H, W)``, values in [0, 1], where the model is.
        """
        if self._shots is None:
            images = (batch.image for batch in self.trainer.train_dataloader)
        else:
            images = self._shots.images(self.trainer.global_rank, self.trainer.world_size)
        return (image.to(self.device) for image in images)

    def gather_shots(self, features: torch.Tensor) -> torch.Tensor:
        """Gather what the processes of a training run have made of their :meth:`normal_images`.

        Args:
            features: One row per image of this process, shape ``(m, ...)``.

        Returns:
            One row per shot, in their order, in every process.
        """
        trainer = getattr(self, "_trainer", None)  # without one there is this process alone
        if trainer is None or trainer.world_size == 1:
            return features
        rows = rearrange(self.all_gather(features), "process m ... -> (m process) ...")
        return rows if self._shots is None else rows[: len(self._shots)]

    def _require_training(self) -> None:
        if not self.is_finalized:
            msg = (
                f"This {type(self).__name__} is not trained: run `fit` or `train` first, or pass the checkpoint of a "
                "finished training run as ckpt_path."
            )
            raise RuntimeError(msg)


def training_ends(trainer: Trainer) -> bool:
    """Return whether no training step will follow: the last batch or step was reached, or a stop is due."""
    epochs = trainer.fit_loop.max_epochs
    return (
        trainer.should_stop
        or 0 <= trainer.max_steps <= trainer.global_step
        or (trainer.is_last_batch and 0 <= epochs <= trainer.current_epoch + 1)
    )


def _prepare(trainer: Trainer) -> None:
    """Set the trainer's epochs, its one validation and its checkpoints."""
    loop = trainer.fit_loop
    if isinstance(loop.max_epochs, DefaultEpochs):
        other_limit = trainer.max_steps >= 0 or any(isinstance(callback, Timer) for callback in trainer.callbacks)
        loop.max_epochs = -1 if other_limit else int(loop.max_epochs)
    trainer.num_sanity_val_steps = 0
    if trainer.check_val_every_n_epoch == 1:
        trainer.check_val_every_n_epoch = NEVER
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is None and _undecided(callback):
            callback._save_on_train_epoch_end = True  # noqa: SLF001  # after every epoch, in spite of NEVER


def _undecided(callback: ModelCheckpoint) -> bool:
    return callback._save_on_train_epoch_end is None  # noqa: SLF001


def class_names_of(datamodule: AnomalibDataModule | None) -> str | list[str]:
    """Return the class names that a datamodule stands for: its categories, else its category, else its name.

    Args:
        datamodule: The datamodule of a training run, if there is one.

    Returns:
        One name or several; ``"object"`` without a datamodule.
    """
    if datamodule is None:
        return "object"
    return list(getattr(datamodule, "categories", [])) or datamodule.category or datamodule.name or "object"
