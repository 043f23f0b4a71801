# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anomalib.data import MVTec3D, MVTecAD, UCSDped, Visa
from anomalib.data.datasets.image.mvtecad import CATEGORIES

from anople_anomalib.data import SampleTextures
from anople_anomalib.data.dataset_checks import class_names_of
from anople_anomalib.data.wrapping import (
    build_datamodule,
    choose_categories,
    known_categories,
    split_by_category,
)


@pytest.mark.parametrize("name", ["SampleTextures", "anople_anomalib.data.SampleTextures"])
def test_datamodules_are_found_by_name(name: str) -> None:
    assert isinstance(build_datamodule(name), SampleTextures)
    assert isinstance(build_datamodule({"class_path": name}), SampleTextures)


def test_arguments_reach_the_datamodule() -> None:
    built = build_datamodule({"class_path": "MVTecAD", "init_args": {"category": "wood", "eval_batch_size": 7}})
    assert (built.category, built.eval_batch_size) == ("wood", 7)


@pytest.mark.parametrize("name", ["MVTec", "anomalib.data.MVTec", "no.such.module.MVTecAD", "PredictDataset", ""])
def test_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"no image datamodule '{name}'"):
        build_datamodule(name)


@pytest.mark.parametrize("other", [3, None, {}, {"class_path": "MVTecAD", "category": "wood"}, UCSDped])
def test_other_objects_are_an_error(other: object) -> None:
    with pytest.raises(TypeError, match="datamodule must be the name"):
        build_datamodule(other)


def test_published_categories_are_known(tmp_path: Path) -> None:
    assert known_categories(MVTecAD(tmp_path)) == list(CATEGORIES)
    assert len(known_categories(Visa(tmp_path))) == 12
    assert "bagel" in known_categories(MVTec3D(tmp_path))
    assert known_categories(SampleTextures(tmp_path)) == ["brick", "grass", "gravel"]


def test_own_folders_in_the_same_layout_are_known(tmp_path: Path) -> None:
    for category in ("tile", "nut", "gear"):
        (tmp_path / category / "train").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert known_categories(MVTecAD(tmp_path)) == ["gear", "nut", "tile"]
    assert choose_categories(MVTecAD(tmp_path), "all") == ["gear", "nut", "tile"]


def test_part_of_the_published_folders_is_still_the_published_data_set(tmp_path: Path) -> None:
    (tmp_path / "tile" / "train").mkdir(parents=True)
    assert choose_categories(MVTecAD(tmp_path), "all") == list(CATEGORIES)


def test_own_category_is_the_default(tmp_path: Path) -> None:
    assert choose_categories(MVTecAD(tmp_path, category="own"), None) == ["own"]
    assert choose_categories(MVTecAD(tmp_path), "wood") == ["wood"]


def test_copies_share_nothing_that_setup_writes(tmp_path: Path) -> None:
    wrapped = MVTecAD(tmp_path, category="wood")
    copies = split_by_category(wrapped, ["bottle", "cable"])
    assert {category: copy.category for category, copy in copies.items()} == {"bottle": "bottle", "cable": "cable"}
    assert wrapped.category == "wood"
    assert wrapped.seed is None
    assert all(copy.seed == 0 for copy in copies.values())
    assert split_by_category(MVTecAD(tmp_path, seed=5), ["wood"])["wood"].seed == 5


@pytest.mark.parametrize(
    ("datamodule", "expected"),
    [
        (SimpleNamespace(category="metal_nut", name="MVTecAD"), "metal_nut"),
        (SimpleNamespace(category="", name="my_screws"), "my_screws"),
        (SimpleNamespace(categories=["metal_nut", "cable"], category="", name="FewShot"), ["metal_nut", "cable"]),
        (None, "object"),
    ],
)
def test_class_names_of_a_datamodule(datamodule: Any, expected: str | list[str]) -> None:
    assert class_names_of(datamodule) == expected
