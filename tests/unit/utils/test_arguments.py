# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of single arguments."""

from typing import Any

import numpy as np
import pytest

from anople_anomalib.utils.arguments import K_SHOT, RATE, as_list, check, integer


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ("a", "a"), (("a", "b"), ["a", "b"]), (3, 3), (range(2), [0, 1])]
)
def test_sequences_become_lists(value: Any, expected: Any) -> None:
    assert as_list(value) == expected


def test_integers() -> None:
    check(integer(1), first=1, second=np.int64(3))
    for wrong in (0, 1.0, True, None, "1", float("nan")):
        with pytest.raises(ValueError, match=f"second must be an integer, 1 or more, got {wrong!r}"):
            check(integer(1), first=2, second=wrong)


def test_rates() -> None:
    check(RATE, first=0, second=1e-3)
    for wrong in (-1e-3, True, None, "1", float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"second must be a finite number, 0 or more, got {wrong!r}"):
            check(RATE, first=1, second=wrong)


def test_numbers_of_shots() -> None:
    check(K_SHOT, k_shot=None)
    check(K_SHOT, k_shot=4)
    for wrong in (0, -1, True, 2.0, "2"):
        with pytest.raises(ValueError, match=f"or None for all images, got {wrong!r}"):
            check(K_SHOT, k_shot=wrong)
