# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Presets: every one is built, trained and restored, and the command line changes one option by option."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anople_anomalib.anople import AnoPLe
from anople_anomalib.presets import arguments_of, preset_names, resolve
from helpers.command_line import MODEL, Parser, anomalib, data_arguments
from helpers.training import make_datamodule, make_engine, read

ONE_VIEW = {"multi_view": False, "paired_anomalies": False}  # a tenth of the time
NO_NETWORK: dict[str, dict[str, Any]] = {
    "paper": {"pretrained": "random", "training": ONE_VIEW},
    "visa": {"pretrained": "random", "training": ONE_VIEW},
    "offline": {},
    "dinov2": {"training": ONE_VIEW, "memory": {"pretrained": "random", "image_size": 126}},
}
"""What each preset is given beside its name, for want of its weights and of time."""


def test_every_preset_is_tried_here() -> None:
    assert set(NO_NETWORK) == set(preset_names())


@pytest.mark.slow
@pytest.mark.parametrize("preset", NO_NETWORK)
def test_a_preset_trains_for_two_steps_and_is_restored(preset: str, images: Path, tmp_path: Path) -> None:
    arguments = NO_NETWORK[preset]
    model = AnoPLe(preset, visualizer=False, **arguments)
    engine = make_engine(tmp_path, max_steps=2, limit_val_batches=0, logger=False)
    engine.fit(model, datamodule=make_datamodule(images))
    assert model.is_finalized
    model.save_checkpoint(tmp_path / "model.ckpt")
    settings = resolve(preset, **arguments)
    saved = read(tmp_path / "model.ckpt")["hyper_parameters"]  # plain data
    assert {name: saved[name] for name in settings} == settings
    restored = AnoPLe.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False).eval()
    assert dict(restored.hparams) == dict(model.hparams)
    image = torch.rand(1, 3, *model.input_size)
    before, after = model.eval()(image), restored(image)
    assert torch.equal(before.pred_score, after.pred_score)
    assert torch.equal(before.anomaly_map, after.anomaly_map)


def test_options_of_a_preset_on_the_command_line() -> None:
    words = "--model.preset offline --model.memory.turns none --model.memory.layers [1,2] --model.k_shot 2"
    words += " --model.training.image_logit_scale clip --model.memory.image_size 128 --model.prompts.state_word [a,b]"
    config = Parser(["train", "--model", "AnoPLe", *words.split(), "--data", "MVTecAD"], run=False).config.train
    given = config.model.init_args
    assert (given.preset, given.k_shot) == ("offline", 2)
    assert (given.memory.turns, given.memory.layers, given.memory.image_size) == ("none", [1, 2], 128)
    assert given.memory.backbone is None  # the preset's
    assert given.training.image_logit_scale == "clip"
    assert given.prompts.state_word == ["a", "b"]


def test_options_of_a_preset_in_a_file_and_beside_it(tmp_path: Path) -> None:
    arguments = {"preset": "offline", "memory": {"turns": 30}, "training": {"epochs": 3, "decoder": "none"}}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": "AnoPLe", "init_args": arguments}}))
    words = ["train", "--config", str(file), "--model.training.epochs", "4", "--data", "MVTecAD"]
    given = Parser(words, run=False).config.train.model.init_args
    assert (given.preset, given.memory.turns) == ("offline", 30)
    assert (given.training.epochs, given.training.decoder) == (4, "none")


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_names_the_arguments_to_give(images: Path, tmp_path: Path) -> None:
    changed = ("--model.training.epochs", "1", "--model.training.decoder", "residual", "--model.visualizer", "false")
    anomalib("train", *MODEL, *changed, *data_arguments(images), results=tmp_path / "results")
    checkpoint = next(tmp_path.rglob("model.ckpt"))
    command = (*data_arguments(images), "--ckpt_path", str(checkpoint), "--model.visualizer", "false")
    said = shlex.join(arguments_of(read(checkpoint)["hyper_parameters"]))
    with pytest.raises(ValueError, match=r"this model has plain: build the model with ") as refused:
        anomalib("test", *MODEL, *command, results=tmp_path / "refused")
    assert str(refused.value).endswith(f"{said}.")
    assert "--model.training.decoder residual" in said
    anomalib("test", "--model", "AnoPLe", *shlex.split(said), *command, results=tmp_path / "judged")
