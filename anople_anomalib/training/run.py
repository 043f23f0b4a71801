# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One run of the trainer: its arguments, its end, and changes of objects of others, undone whatever ends the run."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from anople_anomalib.data.dataset_checks import SUBSETS, check_run
from anople_anomalib.data.image_series import series_in
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.tiles.region import image_size_of
from anople_anomalib.utils.batches import datamodule_of, images_of, paths_of
from anople_anomalib.utils.scoped import replaced
from anople_anomalib.utils.transforms import require_one_transform, transform_of, warn_of_values

from .copies import require_no_shots
from .dataset_checks import require_plain_evaluation, require_whole_images
from .shots import TrainingShots

if TYPE_CHECKING:
    from .hooks import FewShotTraining

NEVER = 2**31
"""A ``val_check_interval``, in steps, that no training run reaches."""


class TrainerArguments(dict[str, Any]):
    """Arguments for anomalib's engine: one device, one validation, and a number of epochs that gives way.

    Validation is due at no step and after no epoch; :meth:`.finalization.Finalization.on_train_batch_end` stops the
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

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: Stage of the trainer.

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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo the changes."""
        del trainer, pl_module, stage
        self.changes.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Undo the changes."""
        del trainer, pl_module, exception
        self.changes.close()


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
        """Note the files of the shots, now that a checkpoint to resume from has brought its own."""
        del trainer
        shots, processor = cast("FewShotTraining", pl_module).shots, pl_module.post_processor
        if shots is not None and isinstance(processor, ExactPostProcessor):
            processor.known_images = []
            processor.know(map(Path, shots.paths))

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
                model.require_region(path, image_size_of(Path(path)) if resized and path else size)

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Refuse images that the region of interest does not fit, before they are resized."""
        self.on_validation_batch_start(*args, **kwargs)

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Refuse images that the region of interest does not fit, before they are resized."""
        self.on_validation_batch_start(*args, **kwargs)

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
        require_no_shots(datamodule, shots.paths)
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
            pl_module.require_region(path, image_size_of(Path(path)))


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
