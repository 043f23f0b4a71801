# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Size of the images, or tiles, by the smallest defect."""

import pytest

from anople_anomalib.commands.main import main
from anople_anomalib.method.image_sizes import cost_of
from anople_anomalib.presets import resolve
from anople_anomalib.tiles.smallest_defect import Fineness, fineness_for
from anople_anomalib.tiles.tiling import Tiling

MEMORY = resolve("offline")["memory"]
STRIDE = 8


def fineness(defect: int, *photographs: tuple[int, int]) -> Fineness:
    return fineness_for(defect, photographs, MEMORY, 4)


def test_the_presets_size_is_kept_where_it_is_fine_enough() -> None:
    assert fineness(23, (900, 600), (400, 300)) == Fineness(320, Tiling(), cost_of(MEMORY, 320, 4))


@pytest.mark.parametrize(("defect", "longest", "size"), [(22, 900, 352), (12, 900, 608), (9, 1000, 896)])
def test_images_are_so_large_that_a_defect_is_as_long_as_a_patch(defect: int, longest: int, size: int) -> None:
    found = fineness(defect, (longest, 500), (300, 200))
    assert (found.image_size, found.tiling) == (size, Tiling())
    assert defect * size / longest >= STRIDE > defect * (size - 32) / longest


def test_no_photograph_is_enlarged() -> None:
    assert fineness(1, (500, 400)).image_size == 512


@pytest.mark.parametrize("photograph", [(3000, 4000), (4000, 900)])
def test_beyond_the_largest_size_there_are_tiles(photograph: tuple[int, int]) -> None:
    found = fineness(14, photograph)
    assert found.image_size == 320
    assert found.cost == cost_of(MEMORY, 320, 4, found.tiling.number)
    for side, seen, count in zip(
        photograph, found.tiling.canvas((320, 320)), (found.tiling.rows, found.tiling.columns), strict=True
    ):
        assert 14 * seen / side >= STRIDE
        assert count == 1 or 14 * (seen - 240) / side < STRIDE  # one tile less would be too few


@pytest.mark.parametrize(
    ("defect", "preset", "message"),
    [
        (3, "offline", "photographs of 4000 pixels need more than 12 tiles"),
        (9, "paper", "take a preset with"),
    ],
)
def test_what_cannot_be_seen_is_refused(defect: int, preset: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fineness_for(defect, [(3000, 4000)], resolve(preset)["memory"], 1)


@pytest.mark.parametrize("words", [["--smallest-defect", "0"], ["--smallest-defect", "9", "--tiles", "auto"]])
def test_wrong_options_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["teach", "somewhere", *words])
    assert end.value.code == 2
    assert "--smallest-defect must be 1 or more and chooses --tiles itself" in capsys.readouterr().err
