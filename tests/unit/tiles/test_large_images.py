# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles and a region in the torch model."""

import copy

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.method.fusion import top_mean
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.tiles import large_images
from anople_anomalib.tiles.large_images import LargeImages
from anople_anomalib.tiles.region import at_size
from anople_anomalib.tiles.tiling import Tiling
from helpers.miniature import EMBED_DIM, IMAGE_SIZE, NUM_PATCHES

GRID = Tiling(2, 3)


@pytest.fixture
def model(clip: FrozenCLIP) -> LargeImages:
    """A model of tiles without a memory yet."""
    model = AnoPLeModel(clip, prompt_depth=2, memory_layers=(1, 3)).eval()
    model.text_features = torch.nn.functional.normalize(torch.randn(2, EMBED_DIM), dim=-1)
    large = LargeImages(model).eval()
    large.set_tiling(GRID)
    return large


def remember(model: LargeImages, image: torch.Tensor) -> None:
    features = model.shot_features(image)
    assert model.memory_bank is not None
    model.memory_bank.build(features.first, inside=features.first_inside)


@torch.no_grad()
def test_one_tile_is_the_whole_image(model: LargeImages, clip: FrozenCLIP) -> None:
    images = torch.randn(2, 3, 70, 80)
    model.set_tiling(Tiling(1, 1))
    remember(model, images)
    prediction, whole = model(images), model.model(images)
    assert torch.equal(prediction.pred_score, whole.pred_score)
    assert torch.equal(prediction.anomaly_map, whole.anomaly_map)
    assert prediction.anomaly_map.shape == (2, 1, 70, 80)
    assert clip.visual.image_size == model.input_size


@torch.no_grad()
def test_an_image_is_judged_alike_in_any_batch(model: LargeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(3, 3, *model.input_size)
    remember(model, images[:1])
    together = model(images)
    monkeypatch.setattr(large_images, "_TILES_AT_ONCE", 1)
    alone = [model(image.unsqueeze(0)) for image in images]
    assert_close(together.pred_score, torch.cat([one.pred_score for one in alone]))
    assert_close(together.anomaly_map, torch.cat([one.anomaly_map for one in alone]))


@torch.no_grad()
def test_memory_and_score_are_those_of_the_tiles(model: LargeImages) -> None:
    image = torch.randn(1, 3, *model.input_size)
    remember(model, image)
    assert model.memory_bank is not None
    assert len(model.memory_bank) == GRID.number * NUM_PATCHES
    tiles = GRID.cut(image, IMAGE_SIZE)
    visual = model.encode_whole(tiles)
    assert_close(
        model.memory_bank.features, torch.nn.functional.normalize(visual.memory_features.flatten(0, 1), dim=-1)
    )
    prediction = model(image)
    of_tiles = GRID.cut(prediction.anomaly_map[:, 0], IMAGE_SIZE).flatten(1).amax(dim=1)
    probability = model.abnormal_probability(visual)
    assert_close(prediction.pred_score[0, 0], (probability * of_tiles / (probability + of_tiles)).max())


@torch.no_grad()
def test_what_is_outside_of_the_region_changes_nothing(model: LargeImages) -> None:
    region = torch.zeros(model.input_size, dtype=torch.bool)
    region[:70, :100] = True
    model.region.set(region)
    image = torch.randn(1, 3, *model.input_size)
    remember(model, image)
    assert model.memory_bank is not None
    inside = model.shot_features(image).first_inside
    assert inside is not None
    assert 0 < len(model.memory_bank) == int(inside.sum()) < GRID.number * NUM_PATCHES
    defect = image.clone()
    defect[..., 80:, 110:] = 3
    expected, result = model(image), model(defect)
    assert torch.equal(result.pred_score, expected.pred_score)
    assert torch.equal(result.anomaly_map, expected.anomaly_map)
    assert not result.anomaly_map[..., ~region].any()
    defect[..., 20:40, 20:40] = 3
    assert model(defect).anomaly_map[..., 20:40, 20:40].max() > expected.anomaly_map[..., 20:40, 20:40].max()


@torch.no_grad()
def test_every_image_may_have_its_region(model: LargeImages) -> None:
    images = torch.randn(1, 3, *model.input_size).expand(2, -1, -1, -1)
    remember(model, images[:1] + 1)
    regions = torch.ones(2, 1, *model.input_size, dtype=torch.bool)
    regions[1, ..., 60:] = False
    both = model(images, regions)
    assert_close(both.anomaly_map[:1], model(images[:1]).anomaly_map)
    assert not both.anomaly_map[1, ..., 60:].any()


@torch.no_grad()
def test_weights_bring_their_tiles_and_region(model: LargeImages, clip: FrozenCLIP) -> None:
    model.region.set(torch.ones(model.input_size, dtype=torch.bool).triu())
    image = torch.randn(1, 3, *model.input_size)
    remember(model, image)
    second = LargeImages(AnoPLeModel(clip, prompt_depth=2, memory_layers=(1, 3))).eval()
    second.load_state_dict(model.state_dict())
    assert second.input_size == model.input_size
    assert torch.equal(second(image + 1).anomaly_map, model(image + 1).anomaly_map)
    assert torch.equal(copy.deepcopy(second).for_inference()(image + 1).anomaly_map, model(image + 1).anomaly_map)


def test_a_training_tile_is_one_of_the_region(model: LargeImages) -> None:
    canvas = GRID.canvas((2 * IMAGE_SIZE[0], 2 * IMAGE_SIZE[1]))
    region = torch.zeros(1, 1, *canvas, dtype=torch.bool)
    region[..., :10, :10] = True  # in the first tile alone
    image = torch.rand(1, 3, *canvas)
    for _ in range(5):
        tile, inside = model.training_images(image, region)
        assert torch.equal(tile, image[..., : 2 * IMAGE_SIZE[0], : 2 * IMAGE_SIZE[1]])
        assert inside is not None
        assert inside.sum() == 100
    drawn = {model.training_images(image)[0].mean().item() for _ in range(40)}
    assert len(drawn) == GRID.number


def test_the_share_of_the_largest_is_of_the_region() -> None:
    values = torch.arange(100.0).reshape(1, 10, 10)
    inside = values >= 80
    assert_close(top_mean(values * inside, 0.5, inside), torch.arange(90.0, 100).mean()[None])
    assert_close(top_mean(values, 0.5, torch.ones_like(inside)), top_mean(values, 0.5))


@pytest.mark.parametrize("size", [(4, 5), (7, 12), (13, 9), (20, 24)])
def test_an_export_pools_a_region_alike(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    regions = torch.rand(2, 1, 13, 12) > 0.8
    expected = at_size(regions, size)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(at_size(regions, size), expected)
