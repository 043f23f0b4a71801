# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Folders of one's own parts, read as they are meant."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import get_datamodule
from PIL import Image

from anople_anomalib.data import FewShot, Parts
from helpers.folders import write_category

SIZE = (40, 60)


def save(path: Path, value: int | None = None, size: tuple[int, int] = SIZE, **options: object) -> Path:
    """Write noise that depends on the name, or a mask whose upper left corner has a value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 200, (*size, 3), dtype=np.uint8)
    if value is not None:
        pixels = np.zeros(size, np.uint8)
        pixels[:10, :10] = value
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Good parts, defective parts numbered without zeros, and masks named after them."""
    for number in range(5):
        save(tmp_path / "screw" / "good" / f"{number}.png")
    for number in (1, 2, 10):
        save(tmp_path / "screw" / "bad" / f"{number}.png")
        save(tmp_path / "screw" / "masks" / f"{number}_mask.png", 255)
    return tmp_path / "screw"


def set_up(*arguments: object, **options: object) -> Parts:
    """Make a datamodule and set it up."""
    parts = Parts(*arguments, **options)
    parts.setup()
    return parts


@pytest.mark.parametrize("below", ["", "good"])
def test_of_good_parts_alone_none_is_lost(root: Path, below: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        parts = set_up(root / below)
    assert [Path(path).name for path in parts.places["teaching"]] == [f"{number}.png" for number in range(5)]
    assert parts.places["calibration"] == parts.places["test"] == []
    assert parts.name == "screw"
    assert "screw: 5 good parts to teach from, 0 for calibration, 0 good and 0 defective ones" in caplog.text


def test_good_parts_are_drawn_for_a_test_beside_defective_ones(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        parts, again = (set_up(root, abnormal_dir="bad") for _ in range(2))
    assert [len(each) for each in parts.places.values()] == [4, 0, 4]
    assert parts.places == again.places
    drawn = Path(next(path for path in parts.places["test"] if "/good/" in path)).name
    assert f"({drawn} of the good ones were drawn for it)" in caplog.text
    assert len(set_up(root, abnormal_dir="bad", test_share=0).train_data) == 5


def test_a_list_of_files_is_a_set_of_parts(root: Path) -> None:
    files = [root / "good" / "3.png", root / "good" / "0.png"]
    assert {Path(path).name for path in set_up(root, normal_dir=files).places["teaching"]} == {"0.png", "3.png"}


def test_masks_belong_to_images_of_their_name(root: Path) -> None:
    samples = set_up(root, abnormal_dir="bad", mask_dir="masks").test_data.samples
    pairs = {
        Path(image).stem: Path(mask).stem for image, mask in samples[["image_path", "mask_path"]].to_numpy() if mask
    }
    assert pairs == {"1": "1_mask", "2": "2_mask", "10": "10_mask"}


def test_several_folders_of_defects_have_their_own_masks(root: Path) -> None:
    save(root / "worse" / "1.png"), save(root / "a_worse" / "1.png", 1, size=(80, 120))
    parts = set_up(root, abnormal_dir=["bad", "worse"], mask_dir=["masks", "a_worse"])
    by_image = dict(parts.test_data.samples[["image_path", "mask_path"]].to_numpy())
    assert Path(by_image[str(root / "worse" / "1.png")]).parent.name == "a_worse"
    batch = next(iter(parts.test_dataloader()))
    assert sorted(batch.gt_mask.flatten(1).sum(dim=1).tolist()) == [0, 25, 100, 100, 100]  # a mask twice as large


def test_the_layout_of_mvtec_ad(tmp_path: Path) -> None:
    write_category(tmp_path, "bottle", train_names=("0", "1", "2"))
    save(tmp_path / "bottle" / "validation" / "good" / "0.png")
    parts = set_up(tmp_path / "bottle")
    assert {use: len(paths) for use, paths in parts.places.items()} == {"teaching": 3, "calibration": 1, "test": 4}
    assert parts.test_data.samples.label.tolist() == ["good", "good", "hole", "hole"]
    assert len(parts.val_data) == 1


@pytest.mark.parametrize("color", [True, False], ids=["color", "gray"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_twelve_bits_in_sixteen(tmp_path: Path, color: bool, suffix: str) -> None:
    values = np.full((8, 9, 3) if color else (8, 9), 4095, np.uint16)
    values[:4] = 0
    values[:, :3] //= 2
    (tmp_path / "good").mkdir()
    cv2.imwrite(str(tmp_path / "good" / f"0{suffix}"), values)
    with pytest.raises(ValueError, match=r"in images of 16 bits is 4095 .*--white 4095 for a camera of 12 bits"):
        set_up(tmp_path)
    image = set_up(tmp_path, white=4095).train_data[0].image
    assert image[:, 4:, 3:].eq(1).all()
    assert image[:, 4:, :3].mean() == pytest.approx(0.5, abs=0.01)


def test_colors_of_sixteen_bits_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    values = np.zeros((8, 8, 3), np.uint16)
    values[..., 2] = 65535  # red, to OpenCV
    cv2.imwrite(str(tmp_path / "good" / "0.png"), values)
    assert set_up(tmp_path).train_data[0].image.amax(dim=(1, 2)).tolist() == [1, 0, 0]


def test_a_turned_photograph_is_upright_and_so_is_its_mask(root: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    save(root / "bad" / "1.png", exif=turned)
    save(root / "masks" / "1_mask.png", 255, size=SIZE[::-1])
    item = next(
        item for item in set_up(root, abnormal_dir="bad", mask_dir="masks").test_data if "1.png" in item.image_path
    )
    assert item.image.shape[-2:] == item.gt_mask.shape == SIZE[::-1]
    plain = torch.from_numpy(np.asarray(Image.open(root / "bad" / "1.png")).copy()).permute(2, 0, 1) / 255
    assert item.image.allclose(plain.rot90(-1, dims=(1, 2)))


def test_hidden_files_and_other_endings_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(root / "good" / ".checkpoints" / "0.png"), save(root / "good" / "5.jfif", format="JPEG")
    parts = set_up(root)
    assert len(parts.train_data) == 5
    assert "1 hidden files are no images" in caplog.text
    assert "1 files are left out" in caplog.text
    assert "5.jfif" in caplog.text


@pytest.mark.parametrize(
    ("value", "size", "message"),
    [
        (0, SIZE, "masks/1_mask.png' of the defective part .*bad/1.png' marks no pixel"),
        (255, SIZE[::-1], "has 40x60 pixels, its image .*bad/1.png' 60x40: it would be stretched"),
    ],
)
def test_a_wrong_mask_is_named(root: Path, value: int, size: tuple[int, int], message: str) -> None:
    save(root / "masks" / "1_mask.png", value, size=size)
    with pytest.raises(ValueError, match=message):
        set_up(root, abnormal_dir="bad", mask_dir="masks")


def test_a_missing_mask_is_named(root: Path) -> None:
    (root / "masks" / "10_mask.png").unlink()
    with pytest.raises(ValueError, match=r"bad/10.png' has no mask"):
        set_up(root, abnormal_dir="bad", mask_dir="masks")


def test_class_numbers_with_an_ignored_rim(root: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:30, 10:30], mask[15:25, 15:25] = 255, 1
    Image.fromarray(mask).save(root / "masks" / "1_mask.png")
    with pytest.raises(ValueError, match=r"areas of value 1 beside others of 255.*--data.ignore 255"):
        set_up(root, abnormal_dir="bad", mask_dir="masks")
    save(root / "masks" / "2_mask.png", 3), save(root / "masks" / "10_mask.png", 7)
    parts = set_up(root, abnormal_dir="bad", mask_dir="masks", ignore=255)
    assert {int(item.gt_mask.sum()) for item in parts.test_data} == {0, 100}


def test_one_image_has_one_use(root: Path) -> None:
    with pytest.raises(ValueError, match=r"good/0.png' is there for teaching and for calibration"):
        set_up(root, calibration_dir="good/0.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_share": 1.0}, "test_share must be a share of the good parts, .* got 1.0"),
        ({"val_split_mode": "synthetic"}, "val_split_mode of Parts must be one of same_as_test, .* got 'synthetic'"),
    ],
)
def test_arguments_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parts(**options)


def test_a_folder_without_good_parts_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "defective" / "0.png")
    with pytest.raises(ValueError, match="There is neither 'train/good' nor 'good' in"):
        set_up(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        set_up(tmp_path / "none")


def test_thresholds_from_nothing_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="screw has no images that thresholds could come from"):
        set_up(root).val_dataloader()


def test_few_shot_takes_parts(root: Path) -> None:
    few = FewShot(Parts(root, abnormal_dir="bad", mask_dir="masks"), k_shot=2)
    few.setup()
    assert len(few.train_data) == 2
    assert few.drawn_samples.keys() == {"screw"}


def test_anomalib_knows_parts(root: Path) -> None:
    assert isinstance(get_datamodule({"class_path": "Parts", "init_args": {"root": str(root)}}), Parts)
