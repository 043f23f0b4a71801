# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The model of a session: its training run, its raw scores and maps, and thresholds that move without a new pass."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import NamedTuple, cast

import numpy as np
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.outputs import ShotFeatures
from anople_anomalib.config import TrainingConfig
from anople_anomalib.data.image_reading import read_image
from anople_anomalib.metrics.thresholds import Promise, good_threshold
from anople_anomalib.training.held_out import HeldOutShots
from anople_anomalib.training.shots import LoadedShots
from anople_anomalib.utils.batches import images_of, joined
from anople_anomalib.utils.transforms import transform_of
from anople_anomalib.visualization.samples import load_images

from .uploads import Photo

Report = Callable[[float, str], object]
"""Told the share of a training run that is done, in [0, 1], and in words."""


def unheard(share: float, text: str) -> None:
    """Report to nobody."""


class Answer(NamedTuple):
    """A model's answer on an image: raw score, and raw anomaly map of shape ``(h, w)``, dtype float32."""

    photo: Photo
    score: float
    heat: np.ndarray


class Good(NamedTuple):
    """A good image as a threshold sees it."""

    score: float  # raw score
    peak: float  # largest raw value of the map
    spread: float = float("nan")  # how far its patches are from those elsewhere in it; NaN where that is unknown


class Thresholds(NamedTuple):
    """Above which raw score an image, and above which raw value of the map a pixel, is anomalous."""

    image: float
    pixel: float


class Progress(Callback):
    """Tells how far a training run is, and ends it after the present step where that is asked for.

    Args:
        stop: Set by whoever wants it to end.
        report: Told every step.

    Attributes:
        step: Steps that are done, of all :attr:`steps`; both are 0 before it starts.
        stopped: Whether it was ended because somebody has asked for it.
    """

    def __init__(self, stop: Event, report: Report = unheard) -> None:
        self._report, self._stop = report, stop
        self.step, self.steps, self.stopped = 0, 0, False
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the number of steps."""
        del pl_module
        self.steps, self._started = int(trainer.estimated_stepping_batches), time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: object, **kwargs: object) -> None:
        """Note a step; stop if somebody has asked for it."""
        del args, kwargs
        self.step = trainer.global_step
        left = (time.monotonic() - self._started) / self.step * (self.steps - self.step)
        text = f"{left:.0f} seconds left."
        self.stopped = self._stop.is_set() and self.step < self.steps
        if self.stopped or self.step == self.steps:
            trainer.should_stop = True
            text = "memory and threshold are being made."
        self._report(self.step / self.steps, f"Step {self.step} of {self.steps}, {text}")


def train(folder: Path, name: str, preset: str, epochs: int, progress: Progress) -> AnoPLe:
    """Train a model on the good images in ``folder / "good"``; stopped early, it has learnt up to there."""
    model = AnoPLe(preset, k_shot=None, training=TrainingConfig(epochs=epochs), visualizer=False)
    datamodule = Folder(
        name=name, root=folder, normal_dir="good", test_split_mode="none", val_split_mode="none", num_workers=0
    )
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(callbacks=[progress], default_root_dir=folder / "results", devices=1, **silent)
    engine.fit(model=model, datamodule=datamodule)
    return model.cpu().eval()


@torch.no_grad()
def judge(model: AnoPLe, photo: Photo) -> Answer:
    """Predict one image as the engine does, without thresholds."""
    image = read_image(photo.path).unsqueeze(0)
    model.require_region("", image.shape[-2:])
    prediction = model.model((transform_of(model.pre_processor) or nn.Identity())(image))
    heat = prediction.anomaly_map.reshape(prediction.anomaly_map.shape[-2:])
    return Answer(photo, float(prediction.pred_score), heat.cpu().numpy())


@torch.no_grad()
def good_scores(model: AnoPLe, photos: Sequence[Photo]) -> list[Good]:
    """Judge each image of the memory as a training run does for its thresholds: by the memory of the others."""
    if not photos:
        return []
    network, paths = model.model, [str(photo.path) for photo in photos]
    shots = LoadedShots(ImageBatch(image=read_image(path).unsqueeze(0)) for path in paths)
    shots.paths = paths
    batch = load_images(model, paths)
    features: ShotFeatures | None = None
    if network.memory_bank is not None:
        features = joined([network.shot_features(image) for image in images_of(batch).split(1)])
    held_out = HeldOutShots(network, shots, features, transform_of(model.pre_processor))
    found, spreads = held_out.predict(batch), held_out.spreads(lambda _number: None) or [float("nan")] * len(paths)
    scores, maps = cast("torch.Tensor", found.pred_score), cast("torch.Tensor", found.anomaly_map)
    return list(map(Good, scores.flatten().tolist(), maps.flatten(1).amax(dim=1).tolist(), spreads))


def allowed(good: Sequence[Good], rate: float | None) -> Thresholds:
    """Return the thresholds of at least one good image, see :func:`good_scores`.

    They are those of a training run, or promise with 95 % confidence that at most a share ``rate`` of new ones is
    above; too few are a ``ValueError``, which says how many are missing.
    """
    promise = None if rate is None else Promise(rate)
    spreads = [each.spread for each in good if each.spread == each.spread]
    values = ([each.score for each in good], [each.peak for each in good])
    return Thresholds(*(good_threshold(torch.tensor(each), promise, spreads) for each in values))
