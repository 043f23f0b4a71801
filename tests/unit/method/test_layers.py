# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Layer numbers, carried over to towers of another depth."""

import logging

import pytest

from anople_anomalib.method.layers import resolve_memory_layers, resolve_prompt_depth


@pytest.mark.parametrize(
    ("asked", "visual", "text", "expected"),
    [
        (9, 12, 12, 9),
        (9, 24, 12, 9),
        (9, 6, 12, 5),
        (9, 12, 4, 3),
        (9, 3, 3, 3),
        (12, 12, 12, 12),
        (1, 3, 3, 1),
        (2, 6, 6, 2),
    ],
)
def test_prompt_depth(asked: int, visual: int, text: int, expected: int) -> None:
    assert resolve_prompt_depth(asked, visual, text) == expected


@pytest.mark.parametrize(("asked", "visual", "text", "most"), [(0, 12, 12, 12), (13, 12, 12, 12), (5, 12, 4, 4)])
def test_prompt_depth_that_does_not_fit_is_refused(asked: int, visual: int, text: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"prompts.depth must be between 1 and {most}, .* got {asked}"):
        resolve_prompt_depth(asked, visual, text)


@pytest.mark.parametrize(
    ("asked", "depth", "expected"),
    [
        ((7, 8, 9, 10), 12, (7, 8, 9, 10)),
        ((7, 8, 9, 10), 24, (14, 16, 18, 20)),
        ((7, 8, 9, 10), 3, (2, 3)),
        ((7, 8, 9), 12, (7, 8, 9)),
        ((7, 8, 9), 3, (2, 3)),
        ((3, 1, 3), 6, (1, 3)),
    ],
)
def test_memory_layers(asked: tuple[int, ...], depth: int, expected: tuple[int, ...]) -> None:
    assert resolve_memory_layers(list(asked), depth) == expected


def test_memory_layers_of_another_paper() -> None:
    assert resolve_memory_layers([3, 8], 12, [(3, 8)]) == (3, 8)
    assert resolve_memory_layers([3, 8], 6, [(3, 8)]) == (2, 4)
    assert resolve_memory_layers([3, 5], 6, [(3, 8)]) == (3, 5)


@pytest.mark.parametrize("layers", [(), (0, 1), (7, 13), (-1,)])
def test_memory_layers_that_do_not_exist_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"memory.layers must be numbers between 1 and 12"):
        resolve_memory_layers(layers, 12)


def test_scaling_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="anople_anomalib"):
        resolve_prompt_depth(9, 6, 6)
        resolve_memory_layers((7, 8, 9, 10), 6)
    assert "prompts.depth 9 of 12 layers becomes 5 of 6 layers" in caplog.text
    assert "memory.layers (7, 8, 9, 10) of 12 layers become (4, 5) of 6 layers" in caplog.text
