# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Regions of interest as users give them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anople_anomalib.tiles.region import plain_roi, polygon_mask, read_region, region_file


def write(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def test_a_polygon_is_drawn_in_shares_of_the_image() -> None:
    mask = polygon_mask([[0.5, 0], [1, 0], [1, 0.5], [0.5, 0.5]], (10, 20))
    assert mask[:5, 10:].all()
    assert mask.sum() == 50


@pytest.mark.parametrize("roi", [3, [[0, 0], [1, 1]], [[0, 0, 0]] * 3, ["ab", "cd", "ef"], {}])
def test_something_else_is_refused(roi: object) -> None:
    with pytest.raises(ValueError, match="roi must be the path of a mask, a folder of masks, or three or more corners"):
        plain_roi(roi)


def test_pixels_are_no_shares() -> None:
    with pytest.raises(ValueError, match="shares of the image's width and height, between 0 and 1"):
        plain_roi([[0, 0], [640, 0], [640, 480]])


def test_nothing_inside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has nothing inside"):
        polygon_mask([[0, 0], [1, 0], [0.5, 0]], (10, 10))
    with pytest.raises(ValueError, match="has nothing inside"):
        read_region(write(tmp_path / "black.png", np.zeros((4, 4))), {})


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no mask .*nowhere.png"):
        read_region(tmp_path / "nowhere.png", {})
    with pytest.raises(FileNotFoundError, match=r"There is no mask of .*000.jpg.* in the folder"):
        region_file(tmp_path, tmp_path / "good" / "000.jpg")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    mask = write(tmp_path / "mask.png", np.ones((4, 6)))
    assert read_region(mask, {Path("a.png"): (4, 6)}).all()
    with pytest.raises(ValueError, match=r"has 6x4 pixels, the image 'a.png' 8x4"):
        read_region(mask, {Path("a.png"): (4, 8)})


def test_the_longest_path_finds_the_mask(tmp_path: Path) -> None:
    plain = write(tmp_path / "masks" / "000.png", np.ones((2, 2)))
    nested = write(tmp_path / "masks" / "bad" / "000.png", np.ones((2, 2)))
    assert region_file(tmp_path / "masks", tmp_path / "parts" / "good" / "000.jpg") == plain
    assert region_file(tmp_path / "masks", tmp_path / "parts" / "bad" / "000.jpg") == nested
