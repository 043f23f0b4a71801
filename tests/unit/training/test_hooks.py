# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Training runs through anomalib's own engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.testing import assert_close

from anople_anomalib.data.sampling import draw_normal_images
from anople_anomalib.training.shots import images_to_validate_on
from helpers.miniature import IMAGE_SIZE
from helpers.training import Recorder, assert_finalized, make_datamodule, make_engine, make_model, read

DOUBLE = (2 * IMAGE_SIZE[0], 2 * IMAGE_SIZE[1])


class StopAtOnce(Callback):
    """Records the limits of a training run and lets it do nothing."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the first step."""
        del pl_module
        self.max_epochs, self.max_steps = trainer.max_epochs, trainer.max_steps
        trainer.should_stop = True


@pytest.mark.parametrize(
    ("arguments", "max_epochs", "max_steps"),
    [
        ({}, 60, -1),
        ({"max_epochs": None}, 60, -1),
        ({"max_epochs": 1}, 1, -1),
        ({"max_epochs": 1000}, 1000, -1),
        ({"max_epochs": -1}, -1, -1),
        ({"max_steps": 5}, 60, 5),
        ({"max_steps": 5, "max_epochs": 7}, 7, 5),
        ({"max_time": {"minutes": 1}}, 60, -1),
    ],
)
def test_what_the_user_gives_is_respected(
    mvtec: Path, tmp_path: Path, arguments: dict[str, Any], max_epochs: int, max_steps: int
) -> None:
    limits = StopAtOnce()
    make_engine(tmp_path, [limits], **arguments).fit(make_model(epochs=60), datamodule=make_datamodule(mvtec))
    assert (limits.max_epochs, limits.max_steps) == (max_epochs, max_steps)
    assert type(limits.max_epochs) is int


def test_one_training_run(mvtec: Path, tmp_path: Path) -> None:
    """Validated once, after the last step, with a finalized model; the checkpoint restores its predictions."""
    recorder, model, datamodule = Recorder(), make_model(epochs=3, k_shot=2), make_datamodule(mvtec)
    engine = make_engine(tmp_path, [recorder])
    results = engine.train(model, datamodule=datamodule)

    assert (engine.trainer.current_epoch, engine.trainer.global_step) == (3, 6)
    assert model.class_names == ["bottle"]
    assert recorder.validated_after == [6]
    assert recorder.finalize_at_validation == [True]
    assert {"image_AUROC", "pixel_AUROC"} <= set(results[0])

    assert [tuple(image.shape) for image in recorder.images] == [(1, 3, *DOUBLE)] * 6
    assert all(0 <= image.min() < 0.45 < 0.55 > image.mean() > 0.3 for image in recorder.images)  # not normalized
    drawn = model.drawn_samples["bottle"]
    assert len(drawn) == 2
    assert set(recorder.paths) == set(drawn)
    assert all(sorted(recorder.paths[2 * epoch : 2 * epoch + 2]) == drawn for epoch in range(3))

    assert len(model.model.memory_bank) == 2 * 16
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_steps_are_respected_and_followed_by_one_validation(mvtec: Path, tmp_path: Path) -> None:
    recorder, model = Recorder(), make_model(k_shot=2)
    engine = make_engine(tmp_path, [recorder], max_steps=3)  # in the middle of the second epoch
    engine.fit(model, datamodule=make_datamodule(mvtec))
    assert engine.trainer.global_step == 3
    assert recorder.validated_after == [3]
    assert recorder.finalize_at_validation == [True]
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_a_stop_by_a_callback_is_followed_by_one_validation(mvtec: Path, tmp_path: Path) -> None:
    class StopAtTheThirdStep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_args: object) -> None:
            trainer.should_stop = trainer.global_step == 3

    recorder, model = Recorder(), make_model(epochs=9)
    engine = make_engine(tmp_path, [recorder, StopAtTheThirdStep()])
    engine.fit(model, datamodule=make_datamodule(mvtec))
    assert recorder.validated_after == [3]
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_a_stop_at_the_end_of_an_epoch_leaves_a_finalized_model(mvtec: Path, tmp_path: Path) -> None:
    """As by EarlyStopping on a training loss: too late for a validation, not for memory and text features."""
    stop = EarlyStopping("train_loss", divergence_threshold=-1.0, check_on_train_epoch_end=True)
    model = make_model(epochs=9)
    engine = make_engine(tmp_path, [stop])
    engine.fit(model, datamodule=make_datamodule(mvtec))
    assert engine.trainer.global_step == 1
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


@pytest.mark.parametrize(
    ("arguments", "validated_after"),
    [
        ({"limit_val_batches": 0}, []),
        ({"check_val_every_n_epoch": 2}, [3]),  # validated once, after the last step, as the engine says
    ],
)
def test_the_final_prompts_count_however_validation_is_set(
    mvtec: Path, tmp_path: Path, arguments: dict[str, Any], validated_after: list[int]
) -> None:
    recorder, model = Recorder(), make_model(prompt_lr=0.1)
    engine = make_engine(tmp_path, [recorder], max_epochs=3, **arguments)
    engine.fit(model, datamodule=make_datamodule(mvtec))
    assert recorder.validated_after == validated_after
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_warm_up_is_linear_from_zero(mvtec: Path, tmp_path: Path) -> None:
    recorder, model = Recorder(), make_model(epochs=30, multi_view=False)
    make_engine(tmp_path, [recorder], limit_val_batches=0).fit(model, datamodule=make_datamodule(mvtec))
    prompt, decoder = (torch.tensor(rates) for rates in zip(*recorder.rates, strict=True))
    expected = torch.tensor([1 / 3, 2 / 3] + 28 * [1.0])  # a tenth of the steps
    assert_close(prompt, 1e-3 * expected)
    assert_close(decoder, 2e-4 * expected)
    (optimizer,) = model.trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert [(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.9, 1e-5)] * 2
    assert {p for group in optimizer.param_groups for p in group["params"]} == {
        p for p in model.parameters() if p.requires_grad
    }


def test_an_interrupted_run_goes_on_from_its_last_epoch(mvtec: Path, tmp_path: Path) -> None:
    class Fail(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_args: object) -> None:
            if trainer.global_step == 2:
                raise ArithmeticError

    engine = make_engine(tmp_path, [Fail()], max_epochs=3)
    with pytest.raises(ArithmeticError):
        engine.fit(make_model(), datamodule=make_datamodule(mvtec))
    assert not read(engine.best_model_path)["state_dict"]["model.is_fitted"]
    recorder, model = Recorder(), make_model()
    resumed = make_engine(tmp_path, [recorder], max_epochs=3)
    resumed.fit(model, datamodule=make_datamodule(mvtec), ckpt_path=engine.best_model_path)
    assert len(recorder.losses) == 1
    assert_finalized(model, read(resumed.best_model_path)["state_dict"])


def test_a_resumed_run_is_tested_with_its_final_weights(mvtec: Path, tmp_path: Path) -> None:
    """Anomalib's engine passes the checkpoint to the test as well; a test of its own is one of that file."""
    engine = make_engine(tmp_path, max_epochs=1)
    engine.fit(make_model(prompt_lr=0.1), datamodule=make_datamodule(mvtec))
    first = read(engine.best_model_path)["state_dict"]["model.prompt_learner.text_prompts"]
    model, resumed = make_model(prompt_lr=0.1), make_engine(tmp_path, max_epochs=3)
    resumed.train(model, datamodule=make_datamodule(mvtec), ckpt_path=engine.best_model_path)
    final = read(resumed.best_model_path)["state_dict"]
    assert not torch.equal(model.model.prompt_learner.text_prompts, first)
    assert all(torch.equal(value, final[name]) for name, value in model.state_dict().items())
    resumed.test(model, datamodule=make_datamodule(mvtec), ckpt_path=engine.best_model_path)
    assert torch.equal(model.model.prompt_learner.text_prompts, first)


@pytest.mark.parametrize("where", ["losses", "weights"])
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(mvtec: Path, tmp_path: Path, where: str) -> None:
    class Spoil(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_args: object) -> None:
            if trainer.current_epoch == 2 and where == "losses":
                pl_module.model.image_logit_scale.fill_(float("nan"))

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_args: object) -> None:
            if trainer.current_epoch == 2 and where == "weights":
                pl_module.model.prompt_learner.visual_prompts.data[0, 0, 0] = float("inf")

    engine = make_engine(tmp_path, [Spoil()], max_epochs=5)
    message = {
        "losses": r"In epoch 3 the losses are no longer finite \(image_loss\): lower prompt_lr or decoder_lr",
        "weights": r"The weights are no longer finite \(model.prompt_learner.visual_prompts\): lower prompt_lr",
    }
    with pytest.raises(FloatingPointError, match=message[where]):
        engine.fit(make_model(), datamodule=make_datamodule(mvtec))
    kept = read(engine.best_model_path)
    assert kept["global_step"] == 2
    assert all(value.isfinite().all() for name, value in kept["state_dict"].items() if name.startswith("model."))


def test_losses_are_in_the_logger_and_the_progress_bar(mvtec: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, limit_val_batches=0)
    engine.fit(make_model(), datamodule=make_datamodule(mvtec))
    names = {"train_loss", "train_image_loss", "train_pixel_loss", "train_align_loss"}
    assert names <= set(engine.trainer.logged_metrics)
    assert names <= set(engine.trainer.progress_bar_metrics)
    terms = [engine.trainer.logged_metrics[name] for name in sorted(names - {"train_loss"})]
    assert_close(engine.trainer.logged_metrics["train_loss"], sum(terms))


def test_training_lowers_the_loss_and_leaves_clip_alone(mvtec: Path, tmp_path: Path) -> None:
    recorder, model = Recorder(), make_model(epochs=30, multi_view=False, prompt_lr=1e-2, decoder_lr=1e-2)
    before = {name: value.clone() for name, value in model.model.clip.named_parameters()}
    make_engine(tmp_path, [recorder], limit_val_batches=0).fit(model, datamodule=make_datamodule(mvtec))
    losses = torch.tensor(recorder.losses)
    assert losses[-10:].mean() < losses[:10].mean()
    assert all(torch.equal(value, before[name]) for name, value in model.model.clip.named_parameters())


@pytest.mark.parametrize("action", ["validate", "test", "predict"])
def test_an_untrained_model_is_refused(mvtec: Path, tmp_path: Path, action: str) -> None:
    engine = make_engine(tmp_path)
    with pytest.raises(RuntimeError, match="This AnoPLe is not trained: run `fit` or `train` first"):
        getattr(engine, action)(model=make_model(), datamodule=make_datamodule(mvtec))


@pytest.mark.parametrize("export", ["to_torch", "to_onnx", "to_openvino"])
def test_an_untrained_model_is_not_exported(tmp_path: Path, export: str) -> None:
    if export == "to_openvino":
        pytest.importorskip("openvino", reason="anomalib's export to OpenVINO asks for openvino first")
    with pytest.raises(RuntimeError, match="This AnoPLe is not trained: run `fit` or `train` first"):
        getattr(make_model(enabled=False), export)(tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_without_validation_images_the_thresholds_come_from_normal_ones(mvtec: Path, tmp_path: Path) -> None:
    """Of the training images that are no shots; for the shots themselves see test_held_out."""
    model = make_model(k_shot=1)
    datamodule = make_datamodule(mvtec, val_split_mode="none")
    make_engine(tmp_path).fit(model, datamodule=datamodule)
    shots, _ = draw_normal_images(datamodule.train_data, 1, 0, "bottle")
    dataset = images_to_validate_on(datamodule.train_data, shots, 0, IMAGE_SIZE)
    assert len(dataset) == 2
    images = [model.pre_processor.transform(item.image[None]) for item in dataset]
    results = [model.model.eval()(image) for image in images]
    largest = torch.stack([result.pred_score for result in results]).max()
    assert largest < model.post_processor.image_threshold < 1.002 * largest
    largest = torch.stack([result.anomaly_map for result in results]).max()
    assert largest < model.post_processor.pixel_threshold < 1.002 * largest


def test_a_second_run_starts_over(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule = make_model(prompt_lr=0.1), make_datamodule(mvtec)
    make_engine(tmp_path).fit(model, datamodule=datamodule)
    first = model.model.memory_bank.features.clone()
    engine = make_engine(tmp_path, limit_val_batches=0)
    engine.fit(model, datamodule=datamodule)
    assert model.model.memory_bank.features.shape == first.shape
    assert not torch.equal(model.model.memory_bank.features, first)
    assert_finalized(model, read(engine.best_model_path)["state_dict"])


def test_a_training_run_is_resumed(mvtec: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, max_epochs=2)
    engine.fit(make_model(k_shot=2), datamodule=make_datamodule(mvtec))
    recorder, model = Recorder(), make_model(k_shot=2)
    resumed = make_engine(tmp_path, [recorder], max_epochs=3)
    resumed.fit(model, datamodule=make_datamodule(mvtec), ckpt_path=engine.best_model_path)
    assert resumed.trainer.global_step == 6
    assert len(recorder.losses) == 2
    assert recorder.validated_after == [6]
    assert_finalized(model, read(resumed.best_model_path)["state_dict"])
