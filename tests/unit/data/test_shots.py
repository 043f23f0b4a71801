# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The shots of a training set: k of its normal images, whatever the order of its files."""

from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD

from anople_anomalib.data.sampling import draw_shots
from anople_anomalib.data.shots import draw_normal_images
from helpers.folders import write_category
from helpers.training import make_datamodule

NAMES = [f"{number:03d}" for number in range(8)]


@pytest.fixture
def datamodule(tmp_path: Path) -> MVTecAD:
    """A datamodule of eight normal images, set up as the trainer does."""
    datamodule = make_datamodule(write_category(tmp_path / "data", train_names=NAMES))
    datamodule.setup("fit")
    return datamodule


def test_the_draw_is_that_of_the_file_names(datamodule: MVTecAD) -> None:
    every = [f"{name}.png" for name in NAMES]
    expected = [every[index] for index in draw_shots(every, 3, 5, "bottle")]
    dataset, names = draw_normal_images(datamodule.train_data, 3, 5, "bottle")
    assert names == expected
    assert [Path(path).name for path in dataset.samples.image_path] == expected
    assert len(datamodule.train_data) == 8


def test_the_draw_does_not_depend_on_the_order_of_files_or_on_where_they_are(
    datamodule: MVTecAD, tmp_path: Path
) -> None:
    _, names = draw_normal_images(datamodule.train_data, 3, 0, "bottle")
    shuffled = datamodule.train_data.subsample(torch.randperm(8).tolist())
    assert set(draw_normal_images(shuffled, 3, 0, "bottle")[1]) == set(names)
    elsewhere = make_datamodule(write_category(tmp_path / "a" / "b", train_names=NAMES[::-1]))
    elsewhere.setup("fit")
    assert set(draw_normal_images(elsewhere.train_data, 3, 0, "bottle")[1]) == set(names)


def test_the_draw_depends_on_seed_and_category(datamodule: MVTecAD) -> None:
    draws = {
        tuple(draw_normal_images(datamodule.train_data, 3, seed, category)[1])
        for seed, category in [(0, "bottle"), (1, "bottle"), (2, "bottle"), (0, "cable")]
    }
    assert len(draws) > 2


def test_a_single_image_is_named_by_its_file(tmp_path: Path) -> None:
    datamodule = make_datamodule(write_category(tmp_path / "data", train_names=["only"]))
    datamodule.setup("fit")
    assert draw_normal_images(datamodule.train_data, 1, 0, "bottle")[1] == ["only.png"]


def test_anomalous_images_are_never_drawn(datamodule: MVTecAD) -> None:
    mixed = datamodule.train_data + datamodule.test_data
    dataset, names = draw_normal_images(mixed, None, 0, "bottle")
    assert len(names) == len(set(names)) == 8 + 2
    assert not dataset.samples.label_index.any()


def test_too_few_images_and_none(datamodule: MVTecAD) -> None:
    with pytest.raises(ValueError, match="category 'bottle' has 8 normal"):
        draw_normal_images(datamodule.train_data, 9, 0, "bottle")
    anomalous = datamodule.test_data.subsample(datamodule.test_data.samples.query("label_index == 1").index.tolist())
    with pytest.raises(ValueError, match="training set of category 'bottle' has no normal images: at least one"):
        draw_normal_images(anomalous, 1, 0, "bottle")
