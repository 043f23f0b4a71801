# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A change that ends with its block."""

import pytest
import torch

from anople_anomalib.utils.scoped import replaced, seeded


class Thing:
    """An object with an attribute of its own, and one of its class."""

    shared = "of the class"

    def __init__(self) -> None:
        self.own = "of the object"


@pytest.mark.parametrize("name", ["own", "shared", "new"])
def test_a_change_lasts_as_long_as_the_block(name: str) -> None:
    thing = Thing()
    before = dict(vars(thing))
    with replaced(thing, name, 1):
        assert getattr(thing, name) == 1
        setattr(thing, name, 2)  # the block may go on changing it
    assert vars(thing) == before
    with pytest.raises(ArithmeticError), replaced(thing, name, 1):
        raise ArithmeticError
    assert vars(thing) == before


def test_seeded_numbers_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    drawn = []
    for seeds in ((1, 2), (1, 2), (2, 1), (1, 3)):
        with seeded(*seeds):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 3
