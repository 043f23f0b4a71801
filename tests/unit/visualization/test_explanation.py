# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The nearest normal patch, and the image it came from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data import FewShot
from anople_anomalib.training.shots import TrainingShots
from anople_anomalib.visualization import draw_nearest_normal, nearest_normal, shots_of
from anople_anomalib.visualization.explanation import Shot
from helpers.folders import write_category
from helpers.miniature import IMAGE_SIZE
from helpers.training import finish, make_datamodule, make_model

from .conftest import NUM_SHOTS


def test_every_patch_of_a_shot_is_its_own_nearest(model: AnoPLe, shots: torch.Tensor) -> None:
    for number, match in enumerate(nearest_normal(model, ImageBatch(image=shots), NUM_SHOTS)):
        assert match.shot == number
        assert match.normal_patch == match.patch
        assert match.distance < 1e-5


def test_the_most_distant_patch_is_the_damaged_one(model: AnoPLe, shots: torch.Tensor) -> None:
    damaged = shots[1:].clone()
    damaged[..., 32:48, 16:32] = 9.0  # patch (2, 1) of the 4x4 grid
    (match,) = nearest_normal(model, ImageBatch(image=damaged), NUM_SHOTS)
    with torch.no_grad():
        expected = model.model.memory_bank(model.model.first_features(damaged).features).reshape(4, 4)
    np.testing.assert_allclose(match.distances, expected, atol=1e-6)
    assert match.patch == (2, 1)
    assert match.distance == pytest.approx(float(expected[2, 1]))


def test_the_image_frames_both_patches_and_enlarges_them(model: AnoPLe, shots: torch.Tensor) -> None:
    images = [Shot("000.png", np.zeros((80, 160, 3))), Shot("001.png", np.ones((80, 160, 3)))]
    match = nearest_normal(model, ImageBatch(image=shots), NUM_SHOTS)[1]
    axes = draw_nearest_normal(model, ImageBatch(image=shots), images).axes[5:10]  # second row
    assert axes[4].get_xlabel() == "001.png"
    row, column = match.normal_patch
    for place in axes[3:]:
        assert {frame.get_xy() for frame in place.patches} == {(40 * column, 20 * row)}
    left, right = axes[3].get_xlim()
    bottom, top = axes[3].get_ylim()
    assert 0 <= left <= 40 * column < 40 * (column + 1) <= right <= 160
    assert 0 <= top <= 20 * row < 20 * (row + 1) <= bottom <= 80


def test_rows_that_cannot_be_traced_back_are_refused(model: AnoPLe, batch: ImageBatch) -> None:
    message = "memory holds 32 patches, not 16 of each of 3 shots: pass images that were added to it as further shots"
    with pytest.raises(ValueError, match=message):
        nearest_normal(model, batch, num_shots=3)


def test_a_coreset_is_refused_even_if_it_is_as_large_as_one_shot(batch: ImageBatch, shots: torch.Tensor) -> None:
    model = finish(make_model(coreset_ratio=0.5), shots)
    assert len(model.model.memory_bank) == 16
    with pytest.raises(ValueError, match="reduced to a coreset cannot be traced back to images"):
        nearest_normal(model, batch, num_shots=1)


def test_images_that_were_added_to_the_memory_count_as_further_shots(shots: torch.Tensor) -> None:
    model, added = finish(make_model(), shots), torch.randn(1, 3, *IMAGE_SIZE)
    model.model.memory_bank.extend(model.model.first_features(added).features)
    (match,) = nearest_normal(model, ImageBatch(image=added), NUM_SHOTS + 1)
    assert match.shot == NUM_SHOTS
    assert match.normal_patch == match.patch


def test_a_model_without_memory_has_no_nearest_patch(batch: ImageBatch, shots: torch.Tensor) -> None:
    model = finish(make_model(enabled=False), shots)
    with pytest.raises(ValueError, match="This model has no memory"):
        draw_nearest_normal(model, batch, [])


def test_shots_come_in_the_order_of_the_memory(tmp_path: Path) -> None:
    for category in ("bottle", "nut"):
        write_category(tmp_path, category)
    datamodule = FewShot(make_datamodule(tmp_path), categories=["nut", "bottle"], k_shot=2)
    shots = shots_of(make_model(), datamodule)
    assert {Path(shot.name).name for shot in shots} == {
        name for names in datamodule.drawn_samples.values() for name in names
    }
    assert len(shots) == 4
    drawn = TrainingShots(datamodule, k_shot=2, seed=0, image_size=IMAGE_SIZE)  # as in a training run
    for shot, image in zip(shots, map(drawn.image, range(len(drawn))), strict=True):
        file = np.asarray(Image.open(tmp_path / shot.name)) / 255
        np.testing.assert_allclose(shot.image, file, atol=1e-6)
        np.testing.assert_allclose(shot.image, image[0].permute(1, 2, 0), atol=1e-6)


def test_looking_at_the_shots_leaves_the_datamodule_as_it_was(mvtec: Path) -> None:
    datamodule = make_datamodule(mvtec)
    datamodule.setup()
    before = datamodule.train_data
    assert len(shots_of(make_model(k_shot=2), datamodule)) == 2
    assert datamodule.train_data is before
    assert len(before) == 3


def test_the_datamodule_of_another_run_is_refused(mvtec: Path) -> None:
    model = make_model()
    model.drawn_samples = {"bottle": ["999.png"]}
    with pytest.raises(ValueError, match=r"trained on \{'bottle': \['999.png'\]\}, this datamodule gives .*: pass the"):
        shots_of(model, make_datamodule(mvtec))


def test_shots_are_as_large_as_their_files_not_as_the_model(mvtec: Path) -> None:
    assert shots_of(make_model(), make_datamodule(mvtec))[0].image.shape[:2] != IMAGE_SIZE
