# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Views cut from a double-resolution image, and their masks."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms.v2 import InterpolationMode, functional

from anople_anomalib.method.views import cut_masks, cut_views, double, num_views
from anople_anomalib.utils.transforms import resize

SIZE = (6, 10)


def test_crops_tile_the_double_image_exactly() -> None:
    images = torch.rand(2, 3, *double(SIZE))
    views = cut_views(images, SIZE)
    assert views.shape == (2, 5, 3, *SIZE)
    top, bottom = torch.cat([views[:, 0], views[:, 1]], dim=3), torch.cat([views[:, 2], views[:, 3]], dim=3)
    assert torch.equal(torch.cat([top, bottom], dim=2), images)


def test_whole_image_comes_last_and_is_anti_aliased() -> None:
    images = torch.rand(2, 3, *double(SIZE))
    whole = functional.resize(images, list(SIZE), interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(cut_views(images, SIZE)[:, -1], whole)
    checkerboard = (torch.arange(12)[:, None] + torch.arange(20)) % 2
    gray = cut_views(checkerboard.expand(1, 3, -1, -1).float(), SIZE)[0, -1]
    assert_close(gray[:, 1:-1, 1:-1], torch.full((3, 4, 8), 0.5), atol=0.05, rtol=0)


def test_images_of_another_size_are_resized_first() -> None:
    images = torch.rand(1, 3, 17, 23)
    crops = cut_views(images, SIZE)[:, :-1]
    assert torch.equal(crops, cut_views(resize(images, double(SIZE)), SIZE)[:, :-1])


def test_single_view_is_the_whole_image() -> None:
    images = torch.rand(2, 3, *double(SIZE))
    assert torch.equal(cut_views(images, SIZE, multi_view=False), cut_views(images, SIZE)[:, -1:])
    masks = (torch.rand(2, 1, *double(SIZE)) > 0.5).float()
    assert torch.equal(cut_masks(masks, SIZE, multi_view=False), cut_masks(masks, SIZE)[:, -1:])
    assert (num_views(multi_view=True), num_views(multi_view=False)) == (5, 1)


def test_masks_are_cut_as_their_images() -> None:
    masks = (torch.rand(2, 1, *double(SIZE)) > 0.7).float()
    cut = cut_masks(masks, SIZE)
    assert cut.shape == (2, 5, *SIZE)
    assert cut.dtype == masks.dtype
    assert torch.equal(cut[:, :-1], cut_views(masks, SIZE)[:, :-1, 0])


@pytest.mark.parametrize("row", range(0, 12, 5))
@pytest.mark.parametrize("column", range(0, 20, 3))
def test_one_pixel_labels_its_crop_and_the_whole_alone(row: int, column: int) -> None:
    masks = torch.zeros(1, 1, *double(SIZE))
    masks[0, 0, row, column] = 1
    cut = cut_masks(masks, SIZE)[0]
    crop = 2 * (row >= SIZE[0]) + (column >= SIZE[1])
    assert cut.flatten(1).amax(dim=1).tolist() == [int(view in {crop, 4}) for view in range(5)]
    assert cut[4].nonzero().tolist() == [[row // 2, column // 2]]
    assert cut[crop].nonzero().tolist() == [[row % SIZE[0], column % SIZE[1]]]


def test_images_of_the_right_size_are_left_alone() -> None:
    images = torch.rand(1, 3, *SIZE)
    assert resize(images, SIZE) is images
