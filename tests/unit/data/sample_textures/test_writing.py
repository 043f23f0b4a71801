# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from anomalib import TaskType
from PIL import Image
from skimage.feature import match_template

from anople_anomalib.data import SampleTextures
from anople_anomalib.data.sample_textures import VERSION, cache_folder, writing
from anople_anomalib.data.sample_textures.writing import DEFECTS, TILE, write_category

CHEAP = {"brick": {"hole": DEFECTS["brick"]["hole"]}}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images, for tests that write them."""
    monkeypatch.setattr(writing, "DEFECTS", CHEAP)
    monkeypatch.setattr(writing, "_TRAIN_IMAGES", 2)
    monkeypatch.setattr(writing, "_NORMAL_TEST_IMAGES", 2)


@pytest.mark.parametrize("category", ["brick", "gravel"])
def test_subsets_have_what_the_docstring_promises(textures: Path, category: str) -> None:
    datamodule = SampleTextures(textures, category)
    datamodule.setup()
    labels = datamodule.test_data.samples.label
    assert len(datamodule.train_data) == 12
    assert not datamodule.train_data.has_anomalous
    assert labels.value_counts().to_dict() == {"good": 15, **dict.fromkeys(DEFECTS[category], 5)}
    assert len(datamodule.val_data) == len(datamodule.test_data)
    assert datamodule.task == TaskType.SEGMENTATION
    item = next(item for item in datamodule.test_data if item.gt_label)
    assert item.image.shape == (3, TILE, TILE)
    assert item.gt_mask.shape == (TILE, TILE)
    assert item.gt_mask.any()


@pytest.mark.parametrize("category", ["brick", "gravel"])
def test_masks_are_visible_and_of_sensible_size(textures: Path, category: str) -> None:
    for path in sorted((textures / VERSION / category / "ground_truth").rglob("*.png")):
        mask = pixels(path)
        assert mask.shape == (TILE, TILE)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.002 < (mask > 0).mean() < 0.2, path


def test_no_pixel_is_shared_between_training_and_test() -> None:
    used = {}
    for name, columns in (("train", writing._TRAIN_COLUMNS), ("test", writing._TEST_COLUMNS)):
        used[name] = set(range(512)[columns])
    assert not used["train"] & used["test"]


@pytest.mark.parametrize("subset", ["train", "test"])
def test_normal_images_are_views_of_their_own_part_of_the_photograph(textures: Path, subset: str) -> None:
    columns = {"train": writing._TRAIN_COLUMNS, "test": writing._TEST_COLUMNS}[subset]
    part = skimage.data.brick()[:, columns]
    for path in sorted((textures / VERSION / "brick" / subset / "good").iterdir())[:4]:
        view = pixels(path)
        fit = max(match_template(part, side).max() for side in (view, view[:, ::-1]))
        assert fit > 0.95, path


@pytest.mark.usefixtures("cheap")
def test_files_do_not_depend_on_the_state_of_random_generators(tmp_path: Path) -> None:
    np.random.seed(1)  # noqa: NPY002
    first = files(write_category(tmp_path / "a", "brick"))
    np.random.seed(2)  # noqa: NPY002
    assert files(write_category(tmp_path / "b", "brick")) == first


@pytest.mark.usefixtures("cheap")
def test_an_image_does_not_depend_on_how_many_there_are(textures: Path, tmp_path: Path) -> None:
    few, all_files = files(write_category(tmp_path, "brick")), files(textures / VERSION / "brick")
    same = [name for name in few if not name.startswith("train")]  # whose heights are spread over their number
    assert same
    assert all(few[name] == all_files[name] for name in same)


@pytest.mark.usefixtures("cheap")
def test_files_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_category(tmp_path, "brick")
    monkeypatch.setattr(writing, "_save", lambda *_: pytest.fail("written again"))
    assert write_category(tmp_path, "brick") == tmp_path / "brick"


@pytest.mark.usefixtures("cheap")
def test_writers_at_the_same_time_leave_one_complete_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_category(tmp_path, "brick"), range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["brick"]
    assert len(files(tmp_path)) == 2 + 2 + 5 + 5


@pytest.mark.usefixtures("cheap")
def test_interrupted_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_write_test_images", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_category(tmp_path, "brick")
    assert not list(tmp_path.iterdir())


def test_environment_variable_moves_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOPLE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert SampleTextures().root == tmp_path / "sample_textures" / VERSION
    monkeypatch.delenv("ANOPLE_CACHE")
    assert "anople_anomalib" in cache_folder().parts


def test_unknown_category_is_an_error() -> None:
    with pytest.raises(ValueError, match="no category 'wood'; choose one of brick, grass, gravel"):
        SampleTextures(category="wood")
