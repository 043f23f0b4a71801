# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One run of the trainer: changes of objects of others, undone whatever ends the run."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from anople_anomalib.data.dataset_checks import SUBSETS, check_run
from anople_anomalib.data.image_reading import image_size_of
from anople_anomalib.data.image_series import series_in
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.utils.batches import datamodule_of, images_of, paths_of
from anople_anomalib.utils.scoped import replaced
from anople_anomalib.utils.transforms import require_one_transform, transform_of, warn_of_values

from .copies import digests_of, require_no_shots
from .dataset_checks import require_plain_evaluation, require_whole_images
from .finalization import validates_at_the_end
from .shots import TrainingShots

if TYPE_CHECKING:
    from .hooks import FewShotTraining


class TrainingRun(Callback):
    """Callback of a model that runs on one device, and has a checkpoint after every epoch of its training.

    Lightning makes a new callback for every run (``configure_callbacks``), and sets it up after the datamodule and
    before the model. It tears nothing down after a failure: hence ``on_exception``.

    Attributes:
        changes: Changes of objects of others, context managers that are closed at the end of the run.
    """

    def __init__(self) -> None:
        self.changes = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change what the run needs.

        Raises:
            ValueError: If there are several processes: each would remember a part of the shots, and an evaluation count
                some images twice.
        """
        if trainer.world_size > 1:
            msg = (
                f"{type(pl_module).__name__} runs in one process, as it has a handful of shots, got "
                f"{trainer.world_size}: give the trainer devices=1 and num_nodes=1."
            )
            raise ValueError(msg)
        if stage == TrainerFn.FITTING and validates_at_the_end(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.monitor is None and _undecided(callback):
                    # else Lightning saves at the end alone, and an interrupted run would be lost
                    self.changes.enter_context(replaced(callback, "_save_on_train_epoch_end", True))

    def teardown(self, *_: object, **__: object) -> None:
        """Undo the changes."""
        self.changes.close()

    on_exception = teardown


class FewShotRun(TrainingRun):
    """Callback that checks the data of a run, and lets a training run see the shots alone.

    The changes belong to this callback and not to the model, which may be copied while it is trained.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change what the run needs, as :class:`TrainingRun` does."""
        super().setup(trainer, pl_module, stage)
        if isinstance(datamodule := datamodule_of(trainer), AnomalibDataModule):
            if stage == TrainerFn.FITTING:
                require_whole_images(datamodule)
            require_plain_evaluation(datamodule, transform_of(pl_module.pre_processor))
        check_run(trainer)
        if stage == TrainerFn.FITTING:
            self._prepare_training(trainer, cast("FewShotTraining", pl_module))  # which has made this callback

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the shots, now that a checkpoint to resume from has brought its own."""
        del trainer
        shots, processor = cast("FewShotTraining", pl_module).shots, pl_module.post_processor
        if isinstance(shots, TrainingShots) and isinstance(processor, ExactPostProcessor):
            processor.known_images, processor.learned_images = [], []
            processor.know(digests_of(shots.dataset, shots.paths), learned=True)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a series report what the region of interest does not fit, and go on."""
        if (series := series_in(trainer.predict_dataloaders)) is not None:
            series.check = cast("FewShotTraining", pl_module).require_region

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Refuse images that the region of interest does not fit, before they are resized."""
        del args, kwargs
        model = cast("FewShotTraining", pl_module)
        if model.roi_shape is not None:
            resized, size = datamodule_of(trainer) is not None, images_of(batch).shape[-2:]
            for path in paths_of(batch) or [""]:
                model.require_region(path, image_size_of(path) if resized and path else size)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Note the images that thresholds come from."""
        del outputs, args, kwargs
        loader, processor = trainer.val_dataloaders, pl_module.post_processor
        if isinstance(processor, ExactPostProcessor):
            files = [path for path in paths_of(batch) or () if Path(path).is_file()]
            processor.know(digests_of(loader.dataset if isinstance(loader, DataLoader) else None, files))

    def _prepare_training(self, trainer: Trainer, pl_module: "FewShotTraining") -> None:
        """Replace the data loaders of the datamodule, if there is one."""
        require_one_transform(pl_module.pre_processor)
        warn_of_values(transform_of(pl_module.pre_processor))
        if pl_module.simulator is not None:
            pl_module.simulator.find_textures()  # before the run, and in no run that judges
        pl_module.teaching = ""
        self.changes.enter_context(replaced(pl_module, "shot_memory", None))  # that of the run
        if (datamodule := datamodule_of(trainer)) is None:
            pl_module.adapt_to([])
            return
        if pl_module.adapt_to(_shots_of(datamodule, pl_module).paths):
            datamodule.setup(trainer.state.fn)  # which tells its subsets the model's new size
        shots = _shots_of(datamodule, pl_module)
        require_no_shots(datamodule, shots)
        _require_regions(datamodule, pl_module)
        self.changes.enter_context(shots)
        self.changes.enter_context(replaced(pl_module, "shots", shots))
        self.changes.enter_context(replaced(pl_module, "held_out", None))  # until there is a memory
        pl_module.drawn_samples = shots.names


def _require_regions(datamodule: AnomalibDataModule, pl_module: "FewShotTraining") -> None:
    """Refuse images that the region of interest does not fit before the run, not at its end."""
    if pl_module.roi_shape is None and pl_module.roi_folder is None:
        return
    for name in SUBSETS if pl_module.roi_folder is None else SUBSETS[1:]:  # good parts beside the shots need no mask
        subset = vars(datamodule).get(name)
        for path in subset.samples.image_path if isinstance(subset, AnomalibDataset) and len(subset) else ():
            pl_module.require_region(path, image_size_of(path))


def _shots_of(datamodule: AnomalibDataModule, pl_module: "FewShotTraining") -> TrainingShots:
    """Draw the shots of a training run, the same whenever it is asked."""
    return TrainingShots(
        datamodule,
        k_shot=pl_module.hparams["k_shot"],
        seed=pl_module.hparams["seed"],
        image_size=pl_module.training_size,
        order_seed=pl_module.training_seed,
        input_size=pl_module.input_size,
        transform=transform_of(pl_module.pre_processor),
    )


def _undecided(callback: ModelCheckpoint) -> bool:
    return callback._save_on_train_epoch_end is None  # noqa: SLF001  # no public way to ask
