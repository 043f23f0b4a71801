# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How AnoPLe is trained inside anomalib's engine: the trainer's side of it, without maths."""

import logging
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import nn

from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.terminal import say_at_end
from anople_anomalib.utils.trainers import trainer_of

from .epochs import DefaultEpochs
from .finalization import Finalization
from .held_out import HeldOutShots
from .resuming import Resuming
from .shots import TrainingShots

logger = logging.getLogger(__name__)


class FewShotTraining(Resuming, Finalization):
    """Lightning hooks for training on k shots, mixed into the model.

    Shots are drawn before training and replace the training set until its end (:mod:`.scoped_changes`). Validation runs
    once, after the last step; whatever depends on the final weights is computed then, by ``finalize``, so that the
    checkpoint of the last epoch holds it.

    The model defines ``finalize()``, ``is_finalized``, ``image_size`` and the hyper-parameters ``k_shot``, ``seed``,
    ``training_seed`` and ``epochs``.

    Attributes:
        drawn_samples: File names of the shots, by category.
        shots: The shots during a training run on a datamodule, else ``None``.
        held_out: Their predictions by the memory of the others, where they are validated on, else ``None``.
    """

    pre_processor: nn.Module | None
    drawn_samples: dict[str, list[str]]
    shots: TrainingShots | None = None
    held_out: HeldOutShots | None = None

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the model sees."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that the pre-processor makes."""
        return self.image_size

    @property
    def training_size(self) -> tuple[int, int]:
        """Height and width at half of which the images of a training run are seen, all tiles together."""
        return self.image_size

    def adapt_to(self, paths: Sequence[str]) -> bool:
        """Adapt to the shots, and return whether the pre-processor makes images of another size now."""
        del paths
        return False

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments for the trainer: the default number of epochs, which gives way to the user's."""
        return {"max_epochs": DefaultEpochs(self.hparams["epochs"])}

    def on_test_end(self) -> None:
        """Log where the images of the test are."""
        self._log_image_folder()

    def on_fit_end(self) -> None:
        """Say where the command line's checkpoint is, and how to go on with it."""
        checkpoint = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if checkpoint and self.trainer.is_global_zero:
            path, name = shlex.quote(str(checkpoint)), type(self).__name__
            say_at_end(
                f"Checkpoint: {checkpoint}\n"
                f"To judge images: anomalib predict --model {name} --data FOLDER --ckpt_path {path}"
            )

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
        if self.shots is None:
            loader: Any = self.trainer.train_dataloader
            images: Iterator[torch.Tensor] = (images_of(batch) for batch in loader)
        else:
            images = self.shots.images(self.trainer.global_rank, self.trainer.world_size)
        return (image.to(self.device) for image in images)

    def normal_regions(self) -> Iterator[torch.Tensor | None]:
        """Yield the region of every shot of :meth:`normal_images`, ``None`` where all have the same."""
        while True:
            yield None

    def gather_shots(self, features: torch.Tensor) -> torch.Tensor:
        """Gather what the processes of a training run have made of their :meth:`normal_images`.

        Args:
            features: One row per image of this process, shape ``(m, ...)``.

        Returns:
            One row per shot, in their order, in every process.
        """
        trainer = trainer_of(self)  # without one there is this process alone
        if trainer is None or trainer.world_size == 1:
            return features
        gathered = cast("torch.Tensor", self.all_gather(features))  # one more axis, the processes
        rows = rearrange(gathered, "process m ... -> (m process) ...")
        return rows if self.shots is None else rows[: len(self.shots)]
