# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from skimage.measure import label, regionprops

from anople_anomalib.deployment.regions import Region, place_of, regions_of


def test_regions_are_in_pixels_of_the_file() -> None:
    mask, anomaly_map = np.zeros((10, 20), dtype=bool), np.random.default_rng(0).random((10, 20)) / 2
    mask[2:4, 5:8] = mask[7, 15] = True
    anomaly_map[3, 6], anomaly_map[7, 15] = 0.9, 0.7
    first, second = regions_of(mask, anomaly_map, (200, 50))
    assert first == ((50, 10, 30, 10), pytest.approx(0.9), 6 * 50, pytest.approx(6 * 50 / (200 * 50)))
    assert second == ((150, 35, 10, 5), pytest.approx(0.7), 50, pytest.approx(50 / (200 * 50)))
    assert regions_of(np.zeros_like(mask), anomaly_map, (200, 50)) == []


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6])
def test_regions_are_those_that_scikit_image_finds(share: float) -> None:
    random = np.random.default_rng(int(100 * share))
    mask, anomaly_map = random.random((40, 50)) < share, random.random((40, 50))
    found = regionprops(label(mask), intensity_image=anomaly_map)
    expected = {(*each.bbox, int(each.area), round(float(each.intensity_max), 6)) for each in found}
    boxes = regions_of(mask, anomaly_map, (50, 40))
    assert {(y, x, y + h, x + w, area, peak) for (x, y, w, h), peak, area, _ in boxes} == expected
    assert len(boxes) == len(found)


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 0, 10, 10), "upper left"),
        ((50, 0, 50, 10), "upper"),
        ((140, 45, 10, 10), "right"),
        ((70, 45, 10, 10), "center"),
        ((0, 95, 20, 5), "lower left"),
        ((0, 0, 150, 100), "center"),
    ],
)
def test_the_place_is_that_of_the_largest_region(box: tuple[int, int, int, int], place: str) -> None:
    small = Region((149, 99, 1, 1), peak=9.0, area=1, share=0.0)
    assert place_of([small, Region(box, peak=1.0, area=50, share=0.0)], (150, 100)) == place


def test_without_a_region_there_is_no_place() -> None:
    assert place_of([], (150, 100)) == ""
