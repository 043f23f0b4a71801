# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a run changes of the trainer and the datamodule ends with the run, whatever ended it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anomalib.engine.engine import _TrainerArgumentsCache
from lightning.pytorch import Callback, Trainer

from anople_anomalib.anople import AnoPLe
from anople_anomalib.training.finalization import NEVER, TrainerArguments
from anople_anomalib.training.run import FewShotRun
from helpers.training import make_datamodule, make_engine, make_model


class Witness(Callback):
    """Records the changes while they last, and may fail."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def on_train_start(self, trainer: Trainer, pl_module: AnoPLe) -> None:
        """Look at the trainer."""
        self.seen = settings(trainer)
        self.shots = pl_module.shots
        self.loader = vars(trainer.datamodule).get("train_dataloader")
        if self.fails:
            raise ArithmeticError


def settings(trainer: Trainer) -> tuple[Any, ...]:
    """What a training run changes of a trainer."""
    saves = [callback._save_on_train_epoch_end for callback in trainer.checkpoint_callbacks]
    return (trainer.check_val_every_n_epoch, trainer.val_check_interval, trainer.num_devices), saves


@pytest.mark.parametrize("fails", [False, True])
def test_changes_end_with_the_run(mvtec: Path, tmp_path: Path, fails: bool) -> None:
    witness, model, datamodule = Witness(fails), make_model(epochs=1), make_datamodule(mvtec)
    engine = make_engine(tmp_path, [witness])
    if fails:
        with pytest.raises(ArithmeticError):
            engine.fit(model, datamodule=datamodule)
    else:
        engine.fit(model, datamodule=datamodule)
    assert witness.seen == ((None, NEVER, 1), [True])
    assert witness.shots is not None
    assert witness.loader is not None
    assert settings(engine.trainer) == ((None, NEVER, 1), [None])
    assert model.shots is None
    assert "train_dataloader" not in vars(datamodule)
    assert len(datamodule.train_data) == 3


def test_a_run_that_fails_before_it_starts_changes_nothing(mvtec: Path, tmp_path: Path) -> None:
    """The texts are made after the training set was replaced."""
    model, datamodule = make_model(class_names="word " * 80), make_datamodule(mvtec)
    with pytest.raises(ValueError, match="shorten the class name"):
        make_engine(tmp_path).fit(model, datamodule=datamodule)
    assert model.shots is None
    assert "train_dataloader" not in vars(datamodule)
    assert len(datamodule.train_data) == 3


def test_several_processes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"AnoPLe runs in one process, .* got 2: give the trainer devices=1"):
        FewShotRun().setup(SimpleNamespace(world_size=2), make_model(), "fit")


@pytest.mark.parametrize("typed", [{}, {"max_epochs": None}, {"max_epochs": 7}, {"max_epochs": 7, "devices": 2}])
def test_the_number_of_epochs_alone_gives_way(typed: dict[str, Any]) -> None:
    cache, model = _TrainerArgumentsCache(**typed), SimpleNamespace(trainer_arguments=TrainerArguments(60))
    assert cache.requires_update(model)
    cache.update(model)
    assert cache.args["max_epochs"] == (typed.get("max_epochs") or 60)
    assert type(cache.args["max_epochs"]) is int
    assert (cache.args["devices"], cache.args["num_sanity_val_steps"]) == (1, 0)
    assert not cache.requires_update(model)
