# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How a mask becomes binary, and which one belongs to which image."""

from pathlib import Path

import numpy as np
import pytest
from anomalib.data.utils import read_mask
from PIL import Image, ImageFilter
from skimage import data

from anople_anomalib.data.masks import binary_mask, pair_masks

MASK = np.zeros((60, 80), np.uint8)
MASK[20:40, 30:60] = 255
AREA = int((MASK > 0).sum())


def read(path: Path) -> np.ndarray:
    """What anomalib's data sets make of a mask."""
    return np.asarray(read_mask(path, as_tensor=True)).astype(bool)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("value", [1, 3, 100, 255])
def test_one_value_beside_zero_is_anomalous(tmp_path: Path, dtype: type, value: int) -> None:
    mask = np.zeros((5, 7), dtype)
    mask[2, 3] = value
    Image.fromarray(mask).save(tmp_path / "mask.tiff")
    assert np.argwhere(binary_mask(tmp_path / "mask.tiff")).tolist() == [[2, 3]]


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_jpeg_keeps_its_area(tmp_path: Path, quality: int) -> None:
    path = tmp_path / "mask.jpg"
    Image.fromarray(MASK).save(path, quality=quality)
    assert read(path).sum() > 1.05 * AREA  # what anomalib alone makes of it
    assert binary_mask(path).sum() == pytest.approx(AREA, rel=0.03)


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_soft_edges_keep_their_area(tmp_path: Path, radius: int) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(MASK).filter(ImageFilter.GaussianBlur(radius)).save(path)
    assert read(path).sum() > 1.1 * AREA
    assert binary_mask(path).sum() == pytest.approx(AREA, rel=0.03 * radius)


def test_numbers_of_classes_are_all_anomalous(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[:5], labels[10:15] = 1, 4
    Image.fromarray(labels).save(tmp_path / "mask.png")
    assert binary_mask(tmp_path / "mask.png").sum() == 300


def test_colors_of_classes_are_all_anomalous(tmp_path: Path) -> None:
    colors = np.zeros((20, 30, 3), np.uint8)
    colors[:5], colors[10:15] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(colors).save(tmp_path / "mask.png")
    assert binary_mask(tmp_path / "mask.png").sum() == 300


def test_areas_of_several_brightnesses_are_refused(tmp_path: Path) -> None:
    grays = np.zeros((20, 30), np.uint8)
    grays[:8], grays[12:] = 100, 250
    Image.fromarray(grays).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask.png' has areas of value 100 beside others of 250.*make them 0 or 250"):
        binary_mask(tmp_path / "mask.png")


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"no mask")
    with pytest.raises(ValueError, match=r"The mask '.*mask.png' cannot be read"):
        binary_mask(tmp_path / "mask.png")


def drawn(values: dict[int, int]) -> np.ndarray:
    """Squares within each other, the outer ones first."""
    mask = np.zeros((60, 60), np.uint8)
    for margin, value in values.items():
        mask[margin : 60 - margin, margin : 60 - margin] = value
    return mask


@pytest.mark.parametrize("values", [{10: 255, 12: 1}, {5: 60, 20: 3}, {5: 200, 20: 20}, {5: 250, 20: 100}])
def test_numbers_of_classes_beside_larger_ones_are_refused_or_told(tmp_path: Path, values: dict[int, int]) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(drawn(values)).save(path)
    outer, inner = values.values()
    with pytest.raises(ValueError, match=f"areas of value {inner} beside others of {outer}.*--data.ignore {outer}"):
        binary_mask(path)
    assert (binary_mask(path, ignore=outer) == (drawn(values) == inner)).all()


def test_a_thin_class_beside_a_large_one_is_refused(tmp_path: Path) -> None:
    mask = drawn({40: 0})
    mask[:5], mask[30] = 255, 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="areas of value 1 beside others of 255"):
        binary_mask(tmp_path / "mask.png")


def painted(path: Path, color: int, hidden: int, erased: bool) -> None:
    """One color on transparency, or a layer of it with a hole, over hidden colors."""
    pixels = np.full((20, 30, 4), (hidden, hidden, hidden, 0), np.uint8)
    where = np.zeros((20, 30), bool)
    where[5:10, 5:10] = True
    pixels[where ^ erased] = (color, color, color, 255)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("color", "hidden", "erased"),
    [(0, 0, False), (0, 0, True), (255, 255, False), (255, 255, True), (0, 255, False), (0, 255, True), (255, 0, True)],
)
def test_a_mask_whose_transparency_may_mean_either_is_refused(
    tmp_path: Path, color: int, hidden: int, erased: bool
) -> None:
    painted(tmp_path / "mask.png", color, hidden, erased)
    with pytest.raises(
        ValueError, match=r"mask.png' cannot be read \(its transparency .*: save it without transparency"
    ):
        binary_mask(tmp_path / "mask.png")


def test_white_on_transparency_is_a_defect(tmp_path: Path) -> None:
    painted(tmp_path / "mask.png", 255, 0, erased=False)
    assert binary_mask(tmp_path / "mask.png").sum() == 25
    assert np.array_equal(binary_mask(tmp_path / "mask.png"), read(tmp_path / "mask.png"))  # as anomalib has it


@pytest.mark.parametrize("name", ["camera", "coins", "brick", "retina", "hubble_deep_field", "colorwheel"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_photograph_is_no_mask(tmp_path: Path, name: str, suffix: str) -> None:
    photograph = Image.fromarray(getattr(data, name)())
    photograph.save(tmp_path / f"photo{suffix}")
    with pytest.raises(
        ValueError, match=r"mask '.*photo.*' is no mask: most of it.*Make what is good black, and every"
    ):
        binary_mask(tmp_path / f"photo{suffix}")


def test_a_heat_map_is_no_mask(tmp_path: Path) -> None:
    y, x = np.mgrid[:200, :300]
    heat = 255 * np.exp(-((y - 90) ** 2 + (x - 140) ** 2) / (2 * 60**2))
    Image.fromarray(heat.astype(np.uint8)).save(tmp_path / "heat.png")
    with pytest.raises(ValueError, match="is no mask"):
        binary_mask(tmp_path / "heat.png")


def test_an_opaque_mask_with_an_alpha_channel_is_read_by_its_colors(tmp_path: Path) -> None:
    Image.fromarray(MASK).convert("RGBA").save(tmp_path / "mask.png")
    assert binary_mask(tmp_path / "mask.png").sum() == AREA


def pairs(images: list[str], masks: list[str], folders: list[tuple[str, str]] | None = None) -> dict[str, str]:
    known = [(Path("/d", image), Path("/d", mask)) for image, mask in folders or []]
    found = pair_masks([Path("/d", image) for image in images], [Path("/d", mask) for mask in masks], known)
    return {image.relative_to("/d").as_posix(): mask.relative_to("/d").as_posix() for image, mask in found.items()}


@pytest.mark.parametrize(
    ("images", "masks", "folders"),
    [
        (["bad/0.png", "bad/1.jpg"], ["mask/0.png", "mask/1.png"], None),
        (["bad/0.png", "bad/10.png"], ["mask/0_mask.png", "mask/10_mask.png"], None),
        (["bad/a1.png", "bad/1.png"], ["mask/a1_gt.png", "mask/mask_1.png"], None),
        (["test/hole/0.png", "test/cut/0.png"], ["gt/hole/0_mask.png", "gt/cut/0_mask.png"], None),
        (["a/0.png", "b/0.png"], ["m_z/0.png", "m_b/0.png"], [("a", "m_z"), ("b", "m_b")]),
        (["a/x/0.png", "a/y/0.png", "b/0.png"], ["m/x/0.png", "m/y/0.png", "n/0.png"], [("a", "m"), ("b", "n")]),
        (["a/0.png", "b/1.png"], ["z/0.png", "y/1.png"], None),
    ],
)
def test_name_and_folder_tell(images: list[str], masks: list[str], folders: list[tuple[str, str]] | None) -> None:
    expected = dict(zip(images, masks, strict=True))
    assert pairs(images, masks[::-1], folders) == expected


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        (["bad/0.png"], ["mask/10.png"], "bad/0.png' has no mask: none has its name"),
        (["bad/0.png", "bad/1.png"], ["mask/0.png"], "bad/1.png' has no mask"),
        (["a/0.png", "b/0.png"], ["m/0.png", "n/0.png"], "not clear which mask belongs to .*a/0.png': .*m/0.png"),
        (["a/0.png", "a/0.jpg"], ["m/0.png", "m/7.png"], "0.png' and .*0.jpg' have the same mask .*m/0.png"),
    ],
)
def test_what_is_not_clear_is_refused_by_name(images: list[str], masks: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pairs(images, masks)
