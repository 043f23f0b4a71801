# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A change that ends with its block."""

import pytest
import torch

from anople_anomalib.utils.scoped import bfloat16_products, replaced, seeded


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


@pytest.mark.parametrize(
    ("capabilities", "limit", "like", "expected"),
    [
        ({"amx_bf16": True}, "", torch.zeros(1), True),
        ({"amx_bf16": True}, "AVX512_CORE_AMX", torch.zeros(1), True),
        ({"amx_bf16": True}, "AVX512_CORE_BF16", torch.zeros(1), False),  # which oneDNN follows
        ({"avx512_bf16": True, "amx_bf16": False}, "", torch.zeros(1), False),
        ({}, "", torch.zeros(1), False),
        ({"amx_bf16": True}, "", torch.zeros(1, dtype=torch.float64), False),  # the trainer's own precision
        ({"amx_bf16": True}, "", torch.zeros(1, device="meta"), False),
    ],
)
def test_bfloat16_where_the_processor_multiplies_tiles(
    capabilities: dict[str, bool], limit: str, like: torch.Tensor, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    with bfloat16_products(like):
        assert torch.is_autocast_enabled("cpu") is expected
    with bfloat16_products(like, wanted=False):
        assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", torch.float16), bfloat16_products(like):
        assert torch.get_autocast_dtype("cpu") is torch.float16  # the trainer's own
