# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Pre-processing that stays exact when it is exported."""

import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from anople_anomalib.deployment.components import ExactPreProcessor

BICUBIC = Resize((24, 32), interpolation=InterpolationMode.BICUBIC, antialias=True)


def test_the_model_called_outside_a_trainer_sees_the_trainers_pixels() -> None:
    transform = Compose([BICUBIC, Normalize([0.5] * 3, [0.2] * 3)])
    images = torch.rand(1, 3, 70, 90)
    exact, usual = ExactPreProcessor(transform), PreProcessor(transform)
    assert torch.equal(exact(images), transform(images))
    assert (usual(images) - transform(images)).abs().max() > 0.1  # what is set right here
    restored = ExactPreProcessor()
    assert restored(images) is images
    restored.load_checkpoint_config(exact.checkpoint_config())
    assert torch.equal(restored(images), transform(images))
    assert isinstance(transform.transforms[0], Resize)  # the transform of training stays


def test_other_transforms_are_left_to_anomalib() -> None:
    transform = Compose([Resize(16, antialias=True), CenterCrop(12)])
    images = torch.rand(1, 3, 40, 50)
    assert torch.equal(ExactPreProcessor(transform)(images), PreProcessor(transform)(images))
