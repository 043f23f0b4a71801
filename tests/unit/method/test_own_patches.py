# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Patches of one image, compared with those elsewhere in it."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.method.subspace_memory_bank import OwnPatches, SubspaceMemoryBank

SIDE, WIDTH = 12, 6


def filled(share: float) -> ScaledMemoryBank:
    """A bank of two images."""
    settings = (WIDTH, (SIDE, SIDE), 1.0, 1.0)
    bank = SubspaceMemoryBank(*settings, share=share) if share else ScaledMemoryBank(*settings)
    bank.build(torch.randn(2, SIDE * SIDE, WIDTH))
    return bank


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_the_distance_is_that_of_its_definition(share: float) -> None:
    bank, image = filled(share), torch.randn(SIDE * SIDE, WIDTH)
    variance, compared = float(bank.variance), image
    if isinstance(bank, SubspaceMemoryBank):
        residual = ((image - bank.center) @ bank.outside.T).norm(dim=1)
        compared = torch.cat([image @ bank.inside.T, residual[:, None]], dim=1)
    expected = []
    for query in range(SIDE * SIDE):
        row, column = divmod(query, SIDE)
        nearest = min(
            float((compared[query] - compared[other]).square().sum())
            for other in range(0, SIDE * SIDE, 3)
            if max(abs(other // SIDE - row), abs(other % SIDE - column)) >= 2  # 0.1 of the side
        )
        nearest /= 4 * variance
        if isinstance(bank, SubspaceMemoryBank):
            nearest = (nearest * float(residual[query]) ** 2 / (4 * variance)) ** 0.5
        expected.append(min(1.0, nearest))
    assert_close(OwnPatches(bank)(image[None])[0], torch.tensor(expected), rtol=1e-3, atol=1e-4)


def test_an_image_has_its_own_patches_whatever_the_bank_and_the_batch_hold() -> None:
    bank, images = filled(0.0), torch.randn(2, SIDE * SIDE, WIDTH)
    bank.extend(images)  # by which the bank itself would be at distance 0
    assert float(bank(images).max()) < 1e-5
    found = OwnPatches(bank)(images)
    assert float(found.min()) > 0
    assert_close(found[1], OwnPatches(bank)(images[1:])[0], rtol=1e-4, atol=1e-5)


def test_a_place_is_no_distance_and_its_neighbors_do_not_count() -> None:
    """Rows of stripes are all alike elsewhere; one patch that is like its neighbor alone is far."""
    bank = filled(0.0)
    image = torch.eye(WIDTH)[torch.arange(SIDE) % 2].repeat(SIDE, 1)
    assert_close(OwnPatches(bank)(image[None]), torch.zeros(1, SIDE * SIDE), rtol=0, atol=1e-5)
    image[:2] = torch.eye(WIDTH)[3]
    assert float(OwnPatches(bank)(image[None])[0, 0]) > 0.01
