# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Training runs of a miniature model through anomalib's engine."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.config import GROUPS
from helpers.miniature import MINIATURE


class Recorder(Callback):
    """Records what a training run does."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []
        self.paths: list[str] = []
        self.rates: list[list[float]] = []
        self.validated_after: list[int] = []
        self.finalize_at_validation: list[bool] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
        """Record the learning rates of the step."""
        del args
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the images as the training step has seen them."""
        del trainer, pl_module, batch_idx
        self.images.append(batch.image.clone())
        self.paths += [Path(path).name for path in batch.image_path or []]
        self.losses.append(outputs["loss"].item())

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record after how many steps there was a validation, and whether the model was finalized."""
        del batch, dataloader_idx
        if batch_idx == 0:
            self.validated_after.append(trainer.global_step)
            self.finalize_at_validation.append(pl_module.is_finalized)


_GROUP_OF = {
    field.name: name
    for name, group in GROUPS.items()
    for field in fields(group)
    if field.name not in {"backbone", "pretrained", "seed"}  # arguments of the model have these names, too
}


def arguments_from(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of AnoPLe on the miniature CLIP for two epochs; options may be given without their group."""
    arguments: dict[str, Any] = {"backbone": MINIATURE, "pretrained": "random", "training": {"epochs": 2}}
    for name, value in options.items():
        if name in GROUPS:
            arguments[name] = arguments.get(name, {}) | (value if isinstance(value, dict) else value.given())
        elif name in _GROUP_OF:
            arguments[_GROUP_OF[name]] = arguments.get(_GROUP_OF[name], {}) | {name: value}
        else:
            arguments[name] = value
    return arguments


def make_model(**options: Any) -> AnoPLe:
    """An AnoPLe on the miniature CLIP that writes no images, see :func:`arguments_from`."""
    return AnoPLe(**{"visualizer": False, **arguments_from(options)})


def make_engine(folder: Path, callbacks: Sequence[Callback] = (), **arguments: Any) -> Engine:
    """Anomalib's engine, on the CPU and quiet."""
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(callbacks=list(callbacks), default_root_dir=folder / "results", **{**quiet, **arguments})


def make_datamodule(root: Path, **arguments: Any) -> MVTecAD:
    """The tiny category as anomalib's own datamodule."""
    return MVTecAD(**{"root": root, "category": "bottle", "num_workers": 0, **arguments})


def train_model(root: Path, folder: Path, **arguments: Any) -> AnoPLe:
    """Train a model for one epoch and return it, ready to predict."""
    model = make_model(**{"epochs": 1, **arguments})
    make_engine(folder).fit(model, datamodule=make_datamodule(root))
    return model.eval()


def finish(model: AnoPLe, shots: torch.Tensor, categories: Sequence[int] | None = None) -> AnoPLe:
    """Give a model what a training run leaves behind; its memories, if any, hold normalized shots (B, 3, H, W)."""
    model.prepare_texts("bottle")
    inner = model.eval().model
    inner.refresh_text_features()
    if inner.memory_bank is not None:
        features = inner.shot_features(shots)
        inner.memory_bank.build(features.first, categories)
        if inner.second_memory is not None:
            inner.second_memory.memory_bank.build(features.second, categories)
    inner.is_fitted.fill_(value=True)
    return model


def assert_finalized(model: AnoPLe, state: dict[str, torch.Tensor]) -> None:
    """Memory and text features are those of the final prompts, in the model and in a checkpoint of it."""
    assert model.is_finalized
    state = {name: value.clone() for name, value in state.items()}
    for name in ("model.memory_bank.features", "model.text_features"):
        assert torch.equal(state[name], model.state_dict()[name]), name
    model.model.refresh_text_features()
    assert_close(state["model.text_features"], model.model.text_features)
    assert state["model.is_fitted"]


def read(path: str | Path) -> dict[str, Any]:
    """A checkpoint, read as strangers should be."""
    return torch.load(path, weights_only=True)
