# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A change that ends with its block."""

import pytest

from anople_anomalib.utils.scoped import replaced


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
