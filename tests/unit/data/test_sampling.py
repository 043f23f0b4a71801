# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD

from anople_anomalib.data.sampling import (
    check_sample_list,
    draw_normal_images,
    draw_shots,
    match_samples,
    read_sample_list,
    write_sample_list,
)
from anople_anomalib.utils.files import relative_names
from helpers.folders import write_category
from helpers.training import make_datamodule

FEW = [f"{number:03d}" for number in range(8)]
NAMES = [f"{number:03}.png" for number in range(40)]


def drawn(names: list[str], **arguments: object) -> set[str]:
    settings = {"k_shot": 4, "seed": 0, "category": "bottle", **arguments}
    return {names[index] for index in draw_shots(names, **settings)}


def test_draw_takes_the_smallest_digests() -> None:
    by_digest = sorted(NAMES, key=lambda name: sha256(f"7/bottle/{name}".encode()).hexdigest())
    assert drawn(NAMES, seed=7) == set(by_digest[:4])


def test_draw_ignores_the_order_of_the_files() -> None:
    assert drawn(NAMES) == drawn(NAMES[::-1])


def test_draw_is_nested() -> None:
    draws = [drawn(NAMES, k_shot=k_shot) for k_shot in range(1, 9)]
    assert all(fewer < more for fewer, more in pairwise(draws))


def test_draw_depends_on_seed_and_category() -> None:
    assert len({frozenset(drawn(NAMES, seed=seed)) for seed in range(10)}) > 1
    assert len({frozenset(drawn(NAMES, category=category)) for category in ("bottle", "cable", "wood")}) > 1


def test_draw_returns_ascending_indices() -> None:
    indices = draw_shots(NAMES, 10, 0, "bottle")
    assert indices == sorted(set(indices))
    assert len(indices) == 10


def test_draw_of_none_is_all() -> None:
    assert draw_shots(NAMES, None, 0, "bottle") == list(range(40))


def test_draw_of_more_than_there_are_names_the_category_and_the_number() -> None:
    with pytest.raises(ValueError, match=r"k_shot=41 .* 'bottle' has 40"):
        draw_shots(NAMES, 41, 0, "bottle")


def test_draw_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="k_shot must be an integer, 1 or more"):
        draw_shots(NAMES, 0, 0, "bottle")


def test_names_are_relative_to_the_shared_folder(tmp_path: Path) -> None:
    assert relative_names([tmp_path / "good" / "b.png", tmp_path / "good" / "a.png"]) == ["b.png", "a.png"]
    assert relative_names([tmp_path / "x" / "a.png", tmp_path / "y" / "a.png"]) == ["x/a.png", "y/a.png"]
    assert relative_names([tmp_path / "x" / "a.png"]) == ["a.png"]
    assert relative_names([]) == []


@pytest.mark.parametrize("wanted", [["007.png", "002.png"], ["007", "002"], ["007", "002.png"]])
def test_samples_match_by_file_name_or_stem(wanted: list[str]) -> None:
    assert match_samples(NAMES, wanted, "bottle") == [2, 7]


def test_samples_match_by_their_whole_name_first() -> None:
    names = ["x/a.png", "y/a.png", "a.png.png", "y/b.png"]
    assert match_samples(names, ["y/a.png", "a.png.png", "b"], "bottle") == [1, 2, 3]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["999.png"], "'bottle' names '999.png', which is not among its 41"),
        (["000"], r"'000', which fits 2 images \(000.png, 000.jpg\)"),
        (["good/001.png"], "'good/001.png', which is not an image's name"),
        (["..\\001.png"], "which is not an image's name"),
        ([".."], "which is not an image's name"),
        (["../../other/001.png"], "which is not an image's name"),
        (["/etc/passwd"], "which is not an image's name"),
        (["001", "001.png"], "names '001.png' twice"),
        ([], "'bottle' is empty"),
    ],
)
def test_samples_that_do_not_match_are_an_error(wanted: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_samples([*NAMES, "000.jpg"], wanted, "bottle")


@pytest.mark.parametrize("name", ["samples.json", "samples.yaml", "samples.YML"])
def test_sample_list_survives_the_file(tmp_path: Path, name: str) -> None:
    samples = {"metal_nut": ["003.png", "ü.png"], "01": ["on", "7"]}
    path = write_sample_list(tmp_path / "new" / name, samples)
    assert read_sample_list(path) == samples
    assert [file.name for file in path.parent.iterdir()] == [name]  # nothing temporary is left


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_sample_list(tmp_path / "samples.json", {"bottle": ["000.png"]})
    with pytest.raises(UnicodeEncodeError):
        write_sample_list(path, {"bottle": ["\ud800.png"]})  # cannot be encoded
    assert read_sample_list(path) == {"bottle": ["000.png"]}
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json' does not exist"):
        read_sample_list(tmp_path / "none.json")


def test_other_suffix_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.json, \.yaml, \.yml"):
        read_sample_list(tmp_path / "samples.txt")
    with pytest.raises(ValueError, match=r"must end in one of"):
        write_sample_list(tmp_path / "samples", {"bottle": ["000.png"]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("b.yaml", "bottle: [000.png"),
        ("c.json", '{"bottle": ["0.png"], "bottle": ["1.png"]}'),
        ("d.yaml", "bottle: ['0.png']\nbottle: ['1.png']"),
        ("e.yaml", "bottle: !!python/object/apply:os.getcwd []"),
    ],
)
def test_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be read"):
        read_sample_list(tmp_path / name)


@pytest.mark.parametrize("content", [[], {}, None, "bottle", {"bottle": "000.png"}, {"bottle": [0]}, {1: ["000.png"]}])
def test_other_content_is_an_error(content: object) -> None:
    with pytest.raises(ValueError, match="must map every category to a list of file names"):
        check_sample_list(content)


@pytest.fixture
def datamodule(tmp_path: Path) -> MVTecAD:
    """A datamodule of eight normal images, set up as the trainer does."""
    datamodule = make_datamodule(write_category(tmp_path / "data", train_names=FEW))
    datamodule.setup("fit")
    return datamodule


def test_the_draw_is_that_of_the_file_names(datamodule: MVTecAD) -> None:
    every = [f"{name}.png" for name in FEW]
    expected = [every[index] for index in draw_shots(every, 3, 5, "bottle")]
    dataset, names = draw_normal_images(datamodule.train_data, 3, 5, "bottle")
    assert names == expected
    assert [Path(path).name for path in dataset.samples.image_path] == expected
    assert len(datamodule.train_data) == 8


def test_the_draw_does_not_depend_on_the_order_of_files_or_on_where_they_are(
    datamodule: MVTecAD, tmp_path: Path
) -> None:
    _, names = draw_normal_images(datamodule.train_data, 3, 0, "bottle")
    shuffled = datamodule.train_data.subsample(torch.randperm(8).tolist())
    assert set(draw_normal_images(shuffled, 3, 0, "bottle")[1]) == set(names)
    elsewhere = make_datamodule(write_category(tmp_path / "a" / "b", train_names=FEW[::-1]))
    elsewhere.setup("fit")
    assert set(draw_normal_images(elsewhere.train_data, 3, 0, "bottle")[1]) == set(names)


def test_the_draw_of_a_data_set_depends_on_seed_and_category(datamodule: MVTecAD) -> None:
    draws = {
        tuple(draw_normal_images(datamodule.train_data, 3, seed, category)[1])
        for seed, category in [(0, "bottle"), (1, "bottle"), (2, "bottle"), (0, "cable")]
    }
    assert len(draws) > 2


def test_a_single_image_is_named_by_its_file(tmp_path: Path) -> None:
    datamodule = make_datamodule(write_category(tmp_path / "data", train_names=["only"]))
    datamodule.setup("fit")
    assert draw_normal_images(datamodule.train_data, 1, 0, "bottle")[1] == ["only.png"]


def test_anomalous_images_are_never_drawn(datamodule: MVTecAD) -> None:
    mixed = datamodule.train_data + datamodule.test_data
    dataset, names = draw_normal_images(mixed, None, 0, "bottle")
    assert len(names) == len(set(names)) == 8 + 2
    assert not dataset.samples.label_index.any()


def test_too_few_images_and_none(datamodule: MVTecAD) -> None:
    with pytest.raises(ValueError, match="category 'bottle' has 8 normal"):
        draw_normal_images(datamodule.train_data, 9, 0, "bottle")
    anomalous = datamodule.test_data.subsample(datamodule.test_data.samples.query("label_index == 1").index.tolist())
    with pytest.raises(ValueError, match="training set of category 'bottle' has no normal images: at least one"):
        draw_normal_images(anomalous, 1, 0, "bottle")
