# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from numpy.random import RandomState

from anople_anomalib.data.sample_textures.shapes import blob, polygon, ramp, ring, smooth_noise, stroke, walk

SHAPE = (40, 50)


def test_ramp_rises_from_zero_to_one() -> None:
    assert ramp(np.array([-1.0, 0.0, 1.0, 2.0, 3.0]), 2.0).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_smooth_blob_is_a_disc() -> None:
    y, x = np.indices(SHAPE)
    disc = 9.0 - np.hypot(y - 20, x - 25)
    assert np.allclose(blob(SHAPE, (20, 25), 9.0, RandomState(0), roughness=0.0), disc)


def test_polygon_measures_the_distance_to_its_edges() -> None:
    square = np.array([[10.0, 10.0], [10.0, 30.0], [30.0, 30.0], [30.0, 10.0]])
    for corners in (square, square[::-1]):
        field = polygon(SHAPE, corners)
        assert field[20, 20] == pytest.approx(10)
        assert field[12, 25] == pytest.approx(2)
        assert field[20, 35] == pytest.approx(-5)


def test_ring_is_around_its_center() -> None:
    corners = ring((20.0, 25.0), 8.0, 6, RandomState(0))
    assert corners.shape == (6, 2)
    assert np.allclose(np.hypot(*(corners - (20, 25)).T), 8)


def test_straight_walk_goes_straight() -> None:
    points = walk((5.0, 5.0), 0.0, 20, RandomState(0), wobble=0.0)
    assert np.allclose(points, [(5 + step, 5) for step in range(1, 21)])


def test_stroke_measures_against_a_line() -> None:
    line = stroke(SHAPE, np.array([(10.0, x) for x in range(5, 26)]))
    assert line.distance[13, 15] == pytest.approx(3)
    assert line.distance[10, 30] == pytest.approx(5)
    assert line.progress[13, 15] == pytest.approx(0.5)
    assert line.side[13, 15] * line.side[7, 15] < 0
    assert np.allclose(np.abs(line.side)[:, 6:25], line.distance[:, 6:25])


def test_noise_is_normalized() -> None:
    noise = smooth_noise(SHAPE, 2.0, RandomState(0))
    assert noise.shape == SHAPE
    assert noise.mean() == pytest.approx(0, abs=1e-9)
    assert noise.std() == pytest.approx(1)
