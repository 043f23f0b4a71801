# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Turns of images."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.method import turns as module
from anople_anomalib.method.turns import NUM_TURNS, STEP, patches_inside, turn_image, turns_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [0]),
        ("mirrored", [0, 24]),
        ("right_angles", [0, 6, 12, 18, 24, 30, 36, 42]),
        (90, [0, 6, 12, 18]),
        (120, [0, 8, 16]),
    ],
)
def test_turns_by_name(name: str | int, expected: list[int]) -> None:
    assert turns_of(name) == expected


@pytest.mark.parametrize("turn", [0, 6, 12, 18, 24, 30, 36, 42])
def test_right_angles_interpolate_nothing(turn: int) -> None:
    image = torch.rand(1, 3, 8, 12)
    side = image.flip(-1) if turn >= NUM_TURNS // 2 else image
    assert torch.equal(turn_image(image, turn), side.rot90(turn % 24 // 6, (-2, -1)))


def test_other_angles_turn_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 9, 9)
    exact = turn_image(image, 6)
    monkeypatch.setattr(module, "_QUARTER", 24)  # takes the way of the other angles
    assert_close(turn_image(image, 6), exact, atol=1e-4, rtol=0)


def test_edges_are_extended_and_never_enter() -> None:
    image = torch.full((1, 3, 32, 48), 0.5)
    assert_close(turn_image(image, 3), image, atol=1e-5, rtol=0)  # no dark corners
    inside = patches_inside(3, (4, 6)).reshape(4, 6)
    assert not inside[0, 0]
    assert not inside[-1, -1]
    assert inside[1:3, 2:4].all()
    assert patches_inside(6, (4, 4)).all()


def test_a_part_comes_back() -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = torch.exp(-((rows - 0.2) ** 2 + (columns + 0.3) ** 2) / 0.05).expand(1, 3, 64, 64)
    assert_close(turn_image(turn_image(image, 30 // STEP), 330 // STEP), image, atol=0.02, rtol=0)
