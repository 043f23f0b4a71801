# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How AnoPLe is trained inside anomalib's engine: the trainer's side of it, without maths."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from anomalib.data import Batch
from torch import nn

from anople_anomalib.method.anomaly_simulation import PixelAnomalySimulator
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.tiles.large_images import ShotFeatures

from .finalization import Finalization
from .held_out import HeldOutShots
from .memory import fill_memory
from .run import TrainerArguments
from .shots import LoadedShots, TrainingShots

logger = logging.getLogger(__name__)


class FewShotTraining(Finalization):
    """Lightning hooks for training on k shots, mixed into the model.

    Shots are drawn before training and replace the training set until its end (:mod:`.run`). Validation runs
    once, after the last step; whatever depends on the final weights is computed then, by ``finalize``, so that the
    checkpoint of the last epoch holds it.

    The model defines ``finalize()``, ``is_finalized``, ``image_size`` and the hyper-parameters ``k_shot`` and ``seed``.

    Attributes:
        epochs: Number of epochs where the trainer is given none.
        training_seed: Seed of the simulated anomalies and of the order of the shots.
        drawn_samples: File names of the shots, by category.
        shots: The shots during a training run on a datamodule, else ``None``.
        held_out: Their predictions by the memory of the others, where they are validated on, else ``None``.
    """

    model: AnoPLeModel
    simulator: PixelAnomalySimulator | None
    pre_processor: nn.Module | None
    drawn_samples: dict[str, list[str]]
    shots: TrainingShots | LoadedShots | None = None
    held_out: HeldOutShots | None = None
    epochs: int
    training_seed: int

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
        return TrainerArguments(self.epochs)

    def on_test_end(self) -> None:
        """Log where the images of the test are."""
        self._log_image_folder()

    def on_predict_end(self) -> None:
        """Log where the images of the prediction are."""
        self._log_image_folder()

    def _log_image_folder(self) -> None:
        folder = getattr(getattr(self, "visualizer", None), "output_dir", None)  # known from the first image on
        if folder is not None:
            logger.info("Heat maps: %s", folder)

    def regions_of(self, paths: Sequence[str] | None) -> torch.Tensor | None:
        """Return the regions of images that have a region each; ``None`` where all have the model's."""
        del paths
        return None  # for the type checker: other models give regions

    def remember_shots(self) -> None:
        """Fill the memory with the shots of the present training run, and hold them out where they are validated on."""
        transform, shots = getattr(self.pre_processor, "transform", None), self.shots
        features: ShotFeatures | None = None
        if self.model.memory_bank is not None:
            shots = shots or LoadedShots(cast("Iterable[Batch]", self.trainer.train_dataloader))
            paths = shots.paths
            features = fill_memory(
                self.model, shots, transform, lambda number: self.regions_of(paths[number : number + 1])
            )
        if shots is not None and shots.validate:
            self.held_out = HeldOutShots(self.model, shots, features, transform)
