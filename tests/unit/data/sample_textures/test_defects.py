# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from numpy.random import RandomState
from scipy import ndimage

from anople_anomalib.data.sample_textures import defects
from anople_anomalib.data.sample_textures.defects import Layer, Surface, paint
from anople_anomalib.data.sample_textures.writing import DEFECTS, PHOTOGRAPHS

KINDS = [(category, kind) for category, kinds in DEFECTS.items() for kind in kinds]


def painted(category: str, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean photograph, damaged photograph, mask."""
    defect = DEFECTS[category][kind]
    clean = PHOTOGRAPHS[category]()[:160, :160]
    filling = PHOTOGRAPHS[defect.filling or category]()[192:448, 192:448] / 255
    return clean, *paint(clean / 255, filling, defect.painter, RandomState(seed))


@pytest.mark.parametrize(("category", "kind"), KINDS)
def test_mask_is_exact(category: str, kind: str) -> None:
    clean, damaged, mask = painted(category, kind, seed=3)
    assert np.array_equal(damaged[mask == 0], clean[mask == 0])
    changed = damaged[mask > 0] != clean[mask > 0]
    assert changed.mean() > 0.8  # here and there the defect has the photograph's gray value


@pytest.mark.parametrize(("category", "kind"), KINDS)
def test_mask_has_no_specks(category: str, kind: str) -> None:
    _, _, mask = painted(category, kind, seed=4)
    islands, number = ndimage.label(mask, structure=np.ones((3, 3)))
    assert number >= 1
    assert np.bincount(islands.ravel())[1:].min() >= defects._LEAST_ISLAND


@pytest.mark.parametrize(("category", "kind"), KINDS)
def test_defects_follow_their_seed(category: str, kind: str) -> None:
    first, second, other = (painted(category, kind, seed)[1] for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("gray", "half"),
    [(0.5, 8), (0.0, 0), (0.0, 32)],
    ids=["too faint", "too small", "too large"],
)
def test_painter_without_a_visible_defect_is_an_error(gray: float, half: int) -> None:
    clean = np.full((64, 64), 0.5)

    def square(surface: Surface) -> Layer:
        opacity = np.zeros(surface.shape)
        opacity[32 - half : 32 + half, 32 - half : 32 + half] = 1
        return Layer(np.full(surface.shape, gray), opacity)

    with pytest.raises(RuntimeError, match="square painted no visible defect"):
        paint(clean, clean, square, RandomState(0))
