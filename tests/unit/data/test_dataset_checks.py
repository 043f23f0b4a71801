# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Hidden files, crosswise masks and soft masks of a user's folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import Folder, PredictDataset
from PIL import Image, ImageFilter

from anople_anomalib.data import FewShot
from anople_anomalib.data.dataset_checks import tidy_subsets
from anople_anomalib.data.image_inputs import each_image
from anople_anomalib.method.anomaly_simulation import PixelAnomalySimulator
from anople_anomalib.utils.hidden_files import is_hidden
from helpers.training import make_engine, make_model

HIDDEN = (".ipynb_checkpoints/0-checkpoint.png", "._0.png")


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 140, (60, 70, 3), dtype=np.uint8)


def square(top: int) -> np.ndarray:
    mask = np.zeros((60, 70), np.uint8)
    mask[top : top + 20, 10:40] = 255
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two kinds of defects, whose masks lie in folders that sort the other way, below a hidden folder."""
    root = tmp_path / ".cache" / "data"
    for index in range(3):
        save(noise(index), root / "good" / f"{index}.png")
    for index, (bad, mask) in enumerate({"a": "m_z", "b": "m_b"}.items()):
        save(np.where(square(30 * index)[..., None], np.uint8(250), noise(9)), root / bad / "0.png")
        save(square(30 * index), root / mask / "0.png")
    return root


def folder(root: Path, **arguments: Any) -> Folder:  # noqa: ANN401
    defaults = {
        "name": "part",
        "root": root,
        "normal_dir": "good",
        "abnormal_dir": ["a", "b"],
        "mask_dir": ["m_z", "m_b"],
        "num_workers": 0,
        "val_split_mode": "same_as_test",
        "seed": 0,
    }
    return Folder(**{**defaults, **arguments})


def masks_of(datamodule: Any) -> set[tuple[str, str]]:  # noqa: ANN401
    samples = datamodule.test_data.samples
    rows = samples[samples.label_index == 1]
    names = ("/".join(Path(path).parts[-2:]) for column in ("image_path", "mask_path") for path in rows[column])
    names = list(names)
    return set(zip(names[: len(rows)], names[len(rows) :], strict=True))


def test_masks_are_paired_by_folder(root: Path, tmp_path: Path) -> None:
    right = {("a/0.png", "m_z/0.png"), ("b/0.png", "m_b/0.png")}
    plain = folder(root)
    plain.setup()
    assert masks_of(plain) == {("a/0.png", "m_b/0.png"), ("b/0.png", "m_z/0.png")}  # anomalib's own
    few = FewShot(folder(root))
    few.setup()
    assert masks_of(few) == right
    assert {item.gt_mask[:20].any().item() for item in few.test_data if "a/0" in item.image_path} == {True}
    datamodule = folder(root)
    make_engine(tmp_path).fit(make_model(epochs=1), datamodule=datamodule)
    assert masks_of(datamodule) == right


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("readable", [True, False])
def test_hidden_files_are_no_images(root: Path, tmp_path: Path, name: str, readable: bool) -> None:
    for place in ("good", "a", "m_z"):
        save(square(0) if place == "m_z" else noise(5), root / place / name)
        if not readable:
            (root / place / name).write_bytes(b"\x00\x05\x16\x07")
    single = {"abnormal_dir": "a", "mask_dir": "m_z"}
    model, datamodule = make_model(epochs=1, k_shot=None), folder(root, **single)
    engine = make_engine(tmp_path)
    engine.train(model, datamodule=datamodule)
    assert all("checkpoint" not in each and "._" not in each for each in model.drawn_samples["part"])
    assert masks_of(datamodule) == {("a/0.png", "m_z/0.png")}
    few = FewShot(folder(root, **single), k_shot=None)
    few.setup()
    used = [*few.train_data.samples.image_path, *few.test_data.samples.image_path, *few.test_data.samples.mask_path]
    assert len(used) == 3 + 1 + 1
    assert not any(is_hidden(path, root) for path in used if path)
    predictions = engine.predict(model, data_path=root / "a")
    assert [Path(path).name for batch in predictions for path in batch.image_path] == ["0.png"]
    dataset = PredictDataset(root / "good")
    assert len(engine.predict(model, dataset=dataset)) == 3
    assert len(dataset.image_filenames) == 4  # the user's object is as it was
    assert len(list(each_image(root / "good"))) == 3
    textures = PixelAnomalySimulator(root / "good").generator.anomaly_source_paths
    assert sorted(Path(path).name for path in textures) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("place", ["a", "m_z"])
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_that_anomalib_cannot_pair_are_named(root: Path, tmp_path: Path, place: str, name: str) -> None:
    save(square(0), root / place / name)
    for datamodule in (folder(root), FewShot(folder(root))):
        with pytest.raises(ValueError, match=f"{place}/{name}' is one of 1 hidden files that end like images.*remove"):
            make_engine(tmp_path).fit(make_model(epochs=1), datamodule=datamodule)


def test_nothing_to_tidy_changes_nothing(root: Path) -> None:
    datamodule = folder(root, abnormal_dir="a", mask_dir="m_z")
    datamodule.setup()
    assert tidy_subsets(datamodule) == {}
    alone = folder(root, abnormal_dir=None, mask_dir=None, val_split_mode="none")
    alone.setup()
    assert tidy_subsets(alone) == {}


def test_soft_masks_are_measured_at_half_their_height(root: Path, tmp_path: Path) -> None:
    for mask in ("m_z", "m_b"):
        path = root / mask / "0.png"
        Image.open(path).filter(ImageFilter.GaussianBlur(3)).convert("L").save(path.with_suffix(".jpg"))
        path.unlink()
    few, datamodule = FewShot(folder(root)), folder(root)
    few.setup()
    make_engine(tmp_path).fit(make_model(epochs=1), datamodule=datamodule)
    for data in (few, datamodule):
        data.test_data.augmentations = None
        areas = [item.gt_mask.sum().item() for item in data.test_data if item.gt_label]
        assert areas == pytest.approx([600, 600], rel=0.06)


def test_data_that_are_tidy_stay_as_they_are(root: Path) -> None:
    """A test after the training finds masks in place of the soft ones, in another folder and of other names."""
    for mask in ("m_z", "m_b"):
        Image.open(root / mask / "0.png").filter(ImageFilter.GaussianBlur(3)).convert("L").save(root / mask / "0.png")
    datamodule = folder(root)
    datamodule.setup()
    assert tidy_subsets(datamodule).keys() == {"val_data", "test_data"}
    vars(datamodule).update(tidy_subsets(datamodule))
    assert tidy_subsets(datamodule) == {}


@pytest.mark.parametrize("name", ["10.png", "other.png"])  # the first one is fine with anomalib
def test_a_mask_of_another_name_is_named(root: Path, tmp_path: Path, name: str) -> None:
    (root / "m_z" / "0.png").rename(root / "m_z" / name)
    for datamodule in (folder(root), FewShot(folder(root))):
        with pytest.raises(ValueError, match=r"a/0\.png' has no mask"):
            make_engine(tmp_path).fit(make_model(epochs=1), datamodule=datamodule)


def test_a_mask_without_an_image_is_named(root: Path) -> None:
    save(square(0), root / "m_b" / "7.png")
    with pytest.raises(ValueError, match=r"m_b/7\.png' belongs to no image"):
        FewShot(folder(root)).setup()
