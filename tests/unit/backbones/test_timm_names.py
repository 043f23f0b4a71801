# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Names in timm for the weights that need no download."""

import pytest
import timm
import torch
from anomalib.models.components import TimmFeatureExtractor
from torch.testing import assert_close

from anople_anomalib.backbones.clip_loading import TINY, load_backbone
from anople_anomalib.backbones.package_weights import LITE0_NAME, TINY_NAME, register_names
from anople_anomalib.baselines.shot_memory import FeaturePyramid


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_names()


def test_the_visual_tower_of_the_bundled_clip() -> None:
    images, tower = torch.randn(2, 3, 240, 240), load_backbone(TINY).clip.visual
    with torch.no_grad():
        expected = tower(images)
        assert_close(timm.create_model(TINY_NAME, pretrained=True).eval()(images), expected.image_embedding)
        extractor = TimmFeatureExtractor(
            TINY_NAME, ["blocks.5"], output_fmt="NLC", return_class_token=False, norm=True
        ).eval()
        assert_close(extractor(images)["blocks.5"], expected.patch_tokens)


def test_efficientnet_lite0() -> None:
    images = torch.randn(1, 3, 64, 64)
    extractor = TimmFeatureExtractor(LITE0_NAME, ["blocks.2", "blocks.4"]).eval()
    expected = FeaturePyramid("efficientnet-lite0", (8, 16))(images)
    for found, other in zip(extractor(images).values(), expected, strict=True):
        assert_close(found, other)


@pytest.mark.parametrize("name", [LITE0_NAME, TINY_NAME])
def test_random_weights_are_others(name: str) -> None:
    random, trained = (timm.create_model(name, pretrained=pretrained) for pretrained in (False, True))
    pairs = zip(random.parameters(), trained.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs if one.dim() > 1)
    assert trained.pretrained_cfg["input_size"] == ((3, 240, 240) if name == TINY_NAME else (3, 224, 224))
