# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Seeded random numbers."""

import torch

from anople_anomalib.utils.seeding import seeded


def test_seeded_numbers_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    drawn = []
    for seeds in ((1, 2), (1, 2), (2, 1), (1, 3)):
        with seeded(*seeds):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 3
