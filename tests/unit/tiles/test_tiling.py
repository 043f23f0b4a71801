# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles cover an image, and their maps are one map again."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.tiles.tiling import MAX_AUTO, Tiling, automatic_tiling, plain_tiles

SIZE = (16, 20)


@pytest.mark.parametrize("tiling", [Tiling(), Tiling(1, 3), Tiling(3, 2)])
def test_what_is_cut_is_merged_again(tiling: Tiling) -> None:
    image = torch.rand(2, *tiling.canvas(SIZE))
    tiles = tiling.cut(image, SIZE)
    assert tiles.shape == (2 * tiling.number, *SIZE)
    assert_close(tiling.merge(tiles), image)


def test_a_constant_stays_constant() -> None:
    tiling = Tiling(3, 4)
    assert_close(tiling.merge(torch.full((tiling.number, *SIZE), 0.3)), torch.full((1, *tiling.canvas(SIZE)), 0.3))


def test_tiles_of_different_heights_are_faded_without_a_step() -> None:
    tiling = Tiling(1, 2)
    merged = tiling.merge(torch.stack([torch.zeros(SIZE), torch.ones(SIZE)]))[0]
    assert merged[0, 0] == 0
    assert merged[0, -1] == 1
    steps = merged.diff(dim=1)
    assert steps.min() >= 0
    assert steps.max() <= 1 / (SIZE[1] // 4) + 1e-6  # the overlap is a quarter, and a mean of both would jump by 1/2


def test_what_lies_on_the_border_of_a_tile_is_whole_in_its_neighbor() -> None:
    tiling = Tiling(1, 2)
    image = torch.zeros(1, *tiling.canvas(SIZE))
    image[..., 17:20] = 1  # the last columns of the first tile, whose width is 20
    assert (tiling.cut(image, SIZE).sum(dim=(1, 2)) == 3 * SIZE[0]).all()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((240, 240), (1, 1)),
        ((480, 480), (1, 1)),
        ((481, 480), (2, 1)),
        ((1200, 1600), (3, 5)),
        ((90000, 10), (MAX_AUTO, 1)),
    ],
)
def test_automatic_tiles_shrink_no_image_below_half(image: tuple[int, int], expected: tuple[int, int]) -> None:
    tiling = automatic_tiling([(10, 10), image], (240, 240))
    assert (tiling.rows, tiling.columns) == expected
    if tiling.rows < MAX_AUTO:
        canvas = tiling.canvas((240, 240))
        assert all(2 * side >= length for side, length in zip(canvas, image, strict=True))


def test_places_are_those_in_the_whole_image() -> None:
    grid = (4, 5)
    assert torch.equal(Tiling().places(grid), ScaledMemoryBank(3, grid).places)
    rows, columns = Tiling(2, 1).places(grid).T
    assert_close(rows[:: grid[1]], torch.tensor([0, 1, 2, 3, 3, 4, 5, 6]) / 7)  # a tile of 4 rows, 3 further on
    assert_close(columns[:5], torch.arange(5) / 5)


@pytest.mark.parametrize("tiles", ["all", 3, [1], [0, 2], [1.5, 2], [True, 2], [1, 2, 3]])
def test_wrong_tiles_are_refused(tiles: object) -> None:
    with pytest.raises(ValueError, match="tiles must be 'auto', the numbers of rows and columns"):
        plain_tiles(tiles)
