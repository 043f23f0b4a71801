# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Prompt strings, equations (1) and (15)."""

import pytest

from anople_anomalib.method.prompt_templates import (
    clean_class_names,
    prompt_texts,
    words_of_categories,
)


def test_words_of_the_paper() -> None:
    """Equation (1): e+ = [class], e- = [abnormal][class]."""
    assert prompt_texts(["metal nut", "bottle"], "abnormal") == (
        ["metal nut", "bottle"],
        ["abnormal metal nut", "abnormal bottle"],
    )


def test_several_state_words_are_an_ensemble() -> None:
    normal, abnormal = prompt_texts(["nut"], ["damaged", " broken "])
    assert normal == ["nut"]
    assert abnormal == ["damaged nut", "broken nut"]


def test_compositional_ensemble_has_seven_normal_and_four_abnormal_states() -> None:
    normal, abnormal = prompt_texts(["nut"], "compositional")
    assert (len(set(normal)), len(set(abnormal))) == (7, 4)
    assert "flawless nut" in normal
    assert "nut with defect" in abnormal
    assert all("nut" in text and "{" not in text for text in normal + abnormal)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("metal_nut", ["metal nut"]),
        (["metal_nut", " pipe__fryum "], ["metal nut", "pipe fryum"]),
        (("bottle",), ["bottle"]),
    ],
)
def test_class_names_become_words(names: str | list[str], expected: list[str]) -> None:
    assert clean_class_names(names) == expected


@pytest.mark.parametrize("names", ["", "_", [], ["bottle", " "]])
def test_empty_class_names_are_refused(names: str | list[str]) -> None:
    with pytest.raises(ValueError, match="non-empty names, got"):
        clean_class_names(names)


def test_equal_class_names_are_one() -> None:
    assert clean_class_names(["metal_nut", "cable", "metal nut"]) == ["metal nut", "cable"]


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ("pcb1", ["printed circuit board"]),
        (["pcb1", "pcb4", "macaroni2", "chewinggum"], ["printed circuit board", "macaroni", "chewing gum"]),
        (["metal_nut", "pipe_fryum"], ["metal nut", "pipe fryum"]),
        (["01", "03"], ["object"]),
    ],
)
def test_categories_become_words(categories: str | list[str], expected: list[str]) -> None:
    assert clean_class_names(words_of_categories(categories)) == expected


def test_an_empty_category_stays_an_error() -> None:
    with pytest.raises(ValueError, match="non-empty names, got"):
        clean_class_names(words_of_categories(["_"]))
