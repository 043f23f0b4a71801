# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a run of the trainer changes of objects that are not the model's, undone whatever ends the run."""

from typing import TYPE_CHECKING, cast

from anomalib.data import AnomalibDataModule
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anople_anomalib.utils.scoped import replaced
from anople_anomalib.utils.transforms import require_one_transform

from .checkpoint_files import guard_checkpoints
from .dataset_checks import tidy_data
from .distributed import evaluated_once
from .epochs import resolve_epochs, validated_once
from .shots import TrainingShots
from .transforms import require_plain_evaluation, require_whole_images
from .undone_changes import UndoneChanges

if TYPE_CHECKING:
    from .hooks import FewShotTraining


class ScopedChanges(UndoneChanges):
    """Callback for checkpoints and data during a run, and for training set and validation during a training run.

    The changes belong to this callback and not to the model, which may be copied while it is trained. Lightning makes
    a new callback for every run (``configure_callbacks``), and sets it up after the datamodule and before the model.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change what the run needs.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: Stage of the trainer.
        """
        guard_checkpoints(trainer)  # stays: the trainer may write checkpoints after its run
        if isinstance(datamodule := getattr(trainer, "datamodule", None), AnomalibDataModule):
            if stage == TrainerFn.FITTING:
                require_whole_images(datamodule)
            require_plain_evaluation(datamodule, getattr(pl_module.pre_processor, "transform", None))
        self.changes.enter_context(tidy_data(trainer))
        self.changes.enter_context(evaluated_once(trainer))
        if stage == TrainerFn.FITTING:
            self._prepare_training(trainer, cast("FewShotTraining", pl_module))  # which has made this callback

    def _prepare_training(self, trainer: Trainer, pl_module: "FewShotTraining") -> None:
        """Replace the training set of the datamodule, if there is one, and let the trainer validate once."""
        require_one_transform(pl_module.pre_processor)
        if (datamodule := getattr(trainer, "datamodule", None)) is None:
            pl_module.adapt_to([])
        else:
            if pl_module.adapt_to(_shots_of(datamodule, pl_module).paths):
                datamodule.setup(trainer.state.fn)  # which tells its subsets the model's new size
            shots = _shots_of(datamodule, pl_module)
            self.changes.enter_context(shots)
            self.changes.enter_context(replaced(pl_module, "shots", shots))
            self.changes.enter_context(replaced(pl_module, "held_out", None))  # set once the memory is filled
            pl_module.drawn_samples = shots.names
        resolve_epochs(trainer)
        self.changes.enter_context(validated_once(trainer))


def _shots_of(datamodule: AnomalibDataModule, pl_module: "FewShotTraining") -> TrainingShots:
    """Draw the shots of a training run, the same whenever it is asked."""
    return TrainingShots(
        datamodule,
        k_shot=pl_module.hparams["k_shot"],
        seed=pl_module.hparams["seed"],
        image_size=pl_module.training_size,
        order_seed=pl_module.hparams["training_seed"],
        input_size=pl_module.input_size,
        transform=getattr(pl_module.pre_processor, "transform", None),
    )
