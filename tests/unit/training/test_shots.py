# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The shots of a datamodule as its temporary training set."""

import logging
from pathlib import Path

import pytest
import torch
from anomalib.data import AnomalibDataset, Folder, MVTecAD
from torch.testing import assert_close

from anople_anomalib.data.sampling import MAX_VALIDATION_IMAGES, draw_normal_images
from anople_anomalib.training.shots import EpochSampler, TrainingShots, images_to_validate_on
from anople_anomalib.utils.transforms import resize
from helpers.folders import SIZE, write_category
from helpers.training import make_datamodule

NAMES = [f"{number:03d}" for number in range(8)]


@pytest.fixture
def datamodule(tmp_path: Path) -> MVTecAD:
    """A datamodule of eight normal images, set up as the trainer does."""
    datamodule = make_datamodule(write_category(tmp_path / "data", train_names=NAMES))
    datamodule.setup("fit")
    return datamodule


def test_the_temporary_training_set(datamodule: MVTecAD, caplog: pytest.LogCaptureFixture) -> None:
    own = datamodule.train_data
    shots = TrainingShots(datamodule, k_shot=2, seed=0, image_size=(20, 25))
    assert datamodule.train_data is own  # nothing is replaced yet
    with caplog.at_level(logging.INFO, logger="anople_anomalib"), shots:
        assert len(shots.names["bottle"]) == 2
        assert f"Shots of bottle, of 8 good images: {', '.join(shots.names['bottle'])}" in caplog.text
        batches = list(datamodule.train_dataloader())
        assert [tuple(batch.image.shape) for batch in batches] == [(1, 3, 40, 50)] * 2
        assert {Path(batch.image_path[0]).name for batch in batches} == set(shots.names["bottle"])
        plain = [shots.image(number) for number in range(len(shots))]
        assert [tuple(image.shape) for image in plain] == [(1, 3, *SIZE)] * 2
        assert all(0 <= image.min() <= image.max() <= 1 for image in plain)
        assert datamodule.train_data is own
    assert own.augmentations is None
    (batch,) = datamodule.train_dataloader()
    assert batch.image.shape == (8, 3, *SIZE)


def test_a_failure_restores_the_training_set(datamodule: MVTecAD) -> None:
    before = dict(vars(datamodule))
    with pytest.raises(ArithmeticError), TrainingShots(datamodule, k_shot=2, seed=0, image_size=(20, 25)):
        raise ArithmeticError
    assert vars(datamodule) == before


def test_a_failure_while_replacing_leaves_no_change(datamodule: MVTecAD, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr("anople_anomalib.training.shots.images_to_validate_on", fail)
    del datamodule.val_data
    before = dict(vars(datamodule))
    with pytest.raises(ArithmeticError):
        TrainingShots(datamodule, k_shot=2, seed=0, image_size=(20, 25)).__enter__()
    assert vars(datamodule) == before


def files(dataset: AnomalibDataset) -> set[str]:
    return {Path(path).name for path in dataset.samples.image_path}


def test_images_that_are_no_shots_stand_in_for_a_missing_validation_set(tmp_path: Path) -> None:
    datamodule = make_datamodule(write_category(tmp_path / "data", train_names=NAMES), val_split_mode="none")
    datamodule.setup("fit")
    with TrainingShots(datamodule, k_shot=2, seed=0, image_size=(20, 25)) as shots:
        (batch,) = datamodule.val_dataloader()
        assert {Path(path).name for path in batch.image_path} == {f"{name}.png" for name in NAMES} - set(
            shots.names["bottle"]
        )
        assert batch.image.shape == (6, 3, 20, 25)
        assert not batch.gt_label.any()
        assert not batch.gt_mask.any()
    assert "val_dataloader" not in vars(datamodule)


def test_an_empty_validation_set_is_replaced_and_restored(datamodule: MVTecAD) -> None:
    datamodule.val_data = datamodule.val_data.subsample([])
    with TrainingShots(datamodule, k_shot=2, seed=0, image_size=(20, 25)):
        assert len(datamodule.val_dataloader().dataset) == 6
    assert len(datamodule.val_dataloader().dataset) == 0


def test_a_validation_set_is_left_alone(datamodule: MVTecAD) -> None:
    with TrainingShots(datamodule, k_shot=2, seed=0, image_size=(20, 25)):
        assert datamodule.val_dataloader().dataset is datamodule.val_data


def test_where_every_image_is_a_shot_they_are_validated_on(datamodule: MVTecAD) -> None:
    datamodule.train_data.augmentations = None
    size = (40, 40)
    validated = images_to_validate_on(datamodule.train_data, datamodule.train_data, 0, size)
    assert files(validated) == files(datamodule.train_data)
    for index in range(8):
        own = next(each for each in datamodule.train_data if each.image_path == validated[index].image_path)
        assert_close(validated[index].image, resize(own.image, size))
        assert validated[index].gt_mask.shape == size
        assert not validated[index].gt_mask.any()


def test_a_large_training_set_is_not_validated_on_as_a_whole(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(MAX_VALIDATION_IMAGES + 5)]
    datamodule = make_datamodule(write_category(tmp_path / "data", train_names=names))
    datamodule.setup("fit")
    shots, _ = draw_normal_images(datamodule.train_data, 1, 0, "bottle")
    first, again, other = (files(images_to_validate_on(datamodule.train_data, shots, seed, SIZE)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == MAX_VALIDATION_IMAGES
    assert not first & files(shots)


def test_shots_that_the_datamodule_has_drawn_are_taken_as_they_are(datamodule: MVTecAD) -> None:
    datamodule.drawn_samples = {"bottle": ["a.png"], "cable": ["b.png", "c.png"]}
    with TrainingShots(datamodule, k_shot=1, seed=0, image_size=(20, 25)) as shots:
        assert shots.names == datamodule.drawn_samples
        assert len(list(datamodule.train_dataloader())) == len(shots) == len(shots.paths) == 8


def test_a_datamodule_without_a_category_draws_by_its_name(tmp_path: Path) -> None:
    root = write_category(tmp_path / "data", "category", NAMES) / "category"
    datamodule = Folder(
        name="screws", root=root, normal_dir="train/good", abnormal_dir="test/hole", num_workers=0, seed=0
    )
    datamodule.setup("fit")
    assert datamodule.category == ""
    shots = TrainingShots(datamodule, k_shot=1, seed=0, image_size=(20, 25))
    assert list(shots.names) == ["screws"]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = EpochSampler(20, seed)
            sampler.set_epoch(epoch)
            torch.manual_seed(epoch)
            orders[seed, epoch] = tuple(sampler)
            torch.manual_seed(99)
            assert tuple(sampler) == orders[seed, epoch]
            assert sorted(sampler) == list(range(20))
            assert len(sampler) == 20
    assert len(set(orders.values())) == 4


def test_what_the_datamodule_sets_aside_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_category(tmp_path / "data", "screw", [str(number) for number in range(10)]) / "screw"
    datamodule = Folder(name="screw", root=root, normal_dir="train/good", num_workers=0, seed=0, val_split_mode="none")
    datamodule.setup("fit")
    aside = sorted(Path(path).name for path in datamodule.test_data.samples.image_path)
    assert aside
    with caplog.at_level(logging.INFO), TrainingShots(datamodule, k_shot=1, seed=0, image_size=(20, 25)):
        line = next(record.message for record in caplog.records if "sets aside" in record.message)
    assert line.startswith("Folder sets aside for tests: ")
    assert sorted(line.split(": ")[1].split(", ")) == aside
