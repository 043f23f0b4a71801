# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The painter that needs numpy and Pillow alone draws as the libraries do that it stands for."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from scipy.ndimage import binary_erosion

from anople_anomalib.deployment.painting import HEAT, heat_colors, paint, picture_name, save, with_outline


def test_colors_are_those_of_the_color_map() -> None:
    heat = np.linspace(0, 1, 1000, dtype=np.float32)[None]
    assert np.abs(heat_colors(heat) - colormaps[HEAT](heat)[..., :3] * 255).max() <= 1.5


def test_outlines_are_what_an_erosion_takes_away() -> None:
    mask = np.random.default_rng(0).random((30, 40)) > 0.1
    mask[5:25, 5:35] = True
    drawn = with_outline(np.zeros((30, 40, 3), np.uint8), mask, "#ffffff")
    assert np.array_equal(drawn[..., 0] > 0, mask & ~binary_erosion(mask, iterations=2))


@pytest.mark.parametrize(("score", "anomalous", "color"), [(0.9, True, "#b2182b"), (0.1, False, "#1b7837")])
def test_the_line_below_has_the_color_of_the_verdict(score: float, anomalous: bool, color: str) -> None:
    drawn = paint(np.zeros((8, 9, 3), np.uint8), score, anomalous, np.zeros((4, 4), np.float32), np.zeros((4, 4), bool))
    assert drawn.size == (3 * 256, 256 + 2 * 28)
    below = np.asarray(drawn)[256 + 28 :].reshape(-1, 3)
    assert (below == [int(color[place : place + 2], 16) for place in (1, 3, 5)]).all(axis=1).any()


def test_a_score_that_is_no_number_has_no_verdict() -> None:
    unknown, good = (paint(np.zeros((8, 9, 3), np.uint8), score, False, None, None) for score in (np.nan, 0.1))
    assert not (np.asarray(unknown) == [0x1B, 0x78, 0x37]).all(axis=2).any()
    assert (np.asarray(good) == [0x1B, 0x78, 0x37]).all(axis=2).any()


def test_a_picture_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    save(Image.new("RGB", (2, 2)), tmp_path / "file" / "0.png")
    assert "cannot be written" in caplog.text
    assert [picture_name(name) for name in ("a.PNG", "lot/b.jpg")] == ["a.PNG", "lot/b.jpg.png"]
