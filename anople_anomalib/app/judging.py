# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Raw scores and maps of images, and thresholds that move over them without a new pass."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from anomalib.data import ImageBatch
from torch import nn

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data.image_inputs import each_image
from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.metrics.thresholds import Promise, good_threshold
from anople_anomalib.tiles.large_images import ShotFeatures
from anople_anomalib.training.held_out import HeldOutShots
from anople_anomalib.utils.batches import joined

from .uploads import Photo


class Answer(NamedTuple):
    """What a model says about an image, before any threshold.

    Attributes:
        photo: The image.
        score: Its raw score.
        heat: Its raw anomaly map, shape ``(h, w)``, dtype float32.
    """

    photo: Photo
    score: float
    heat: np.ndarray


class Thresholds(NamedTuple):
    """Above which raw score an image, and above which raw value of the map a pixel, is anomalous."""

    image: float
    pixel: float


def judge(model: AnoPLe, photo: Photo) -> Answer:
    """Predict one image as the engine does, without thresholds.

    Args:
        model: A trained model.
        photo: The image.
    """
    return Answer(photo, *_raw(model, next(each_image(photo.path))))


class _Shots:
    """Good images as :class:`HeldOutShots` takes them."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self.paths = [str(photo.path) for photo in photos]
        self.categories = [0] * len(photos)

    def image(self, number: int) -> torch.Tensor:
        """Return one of them, shape ``(1, 3, H, W)``, values in [0, 1]."""
        return next(each_image(self.paths[number]))


@torch.no_grad()
def good_scores(model: AnoPLe, photos: Sequence[Photo]) -> list[tuple[float, float]]:
    """Judge good images as a training run does for its thresholds: each by the memory of the others.

    Args:
        model: A trained model.
        photos: All good images that are in its memory.

    Returns:
        Raw score and largest raw value of the map of every image.
    """
    if not photos:
        return []
    transform, shots, network = _transform(model), _Shots(photos), model.model
    images = [transform(shots.image(number)) for number in range(len(photos))]
    features: ShotFeatures | None = None
    if network.memory_bank is not None:
        features = joined([network.shot_features(image) for image in images])
    held_out = HeldOutShots(network, shots, features, transform)
    found = held_out.predict(ImageBatch(image=torch.cat(images), image_path=shots.paths))
    scores, maps = cast("torch.Tensor", found.pred_score), cast("torch.Tensor", found.anomaly_map)
    return list(zip(scores.flatten().tolist(), maps.flatten(1).amax(dim=1).tolist(), strict=True))


def allowed(good: Sequence[tuple[float, float]], rate: float | None) -> Thresholds:
    """Return the thresholds of good images, or those that promise at most a share of false alarms.

    Args:
        good: Scores of good images as :func:`good_scores` returns them, at least one.
        rate: Largest share of new good images above the thresholds, with 95 % confidence; ``None`` for the fence of
            these.

    Raises:
        ValueError: If there are too few good images for the promise; it says how many are missing.
    """
    promise = None if rate is None else Promise(rate)
    return Thresholds(*(good_threshold(torch.tensor(values), promise) for values in zip(*good, strict=True)))


def note_on(good: Sequence[tuple[float, float]], thresholds: Thresholds) -> str:
    """Say how many of the good images are above the threshold, with the bound of false alarms.

    Args:
        good: Their scores, see :func:`good_scores`.
        thresholds: The present thresholds.
    """
    above = sum(score > thresholds.image for score, _ in good)
    return f"Good images above the threshold: {Rate(above, len(good))}."


@torch.no_grad()
def _raw(model: AnoPLe, image: torch.Tensor) -> tuple[float, np.ndarray]:
    """Return raw score and raw map of an image of shape ``(1, 3, H, W)``."""
    model.require_region("", image.shape[-2:])
    prediction = model.model(_transform(model)(image))
    return float(prediction.pred_score), prediction.anomaly_map.reshape(prediction.anomaly_map.shape[-2:]).cpu().numpy()


def _transform(model: AnoPLe) -> nn.Module:
    return getattr(model.pre_processor, "transform", None) or nn.Identity()
