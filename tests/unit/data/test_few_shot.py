# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from anomalib import TaskType
from anomalib.data import Folder, MVTecAD, get_datamodule
from jsonargparse import ArgumentParser
from omegaconf import OmegaConf
from torchvision.transforms.v2 import RandomHorizontalFlip

from anople_anomalib.data import FewShot
from anople_anomalib.data.few_shot import SAMPLES_FILE
from anople_anomalib.data.sampling import draw_shots, write_sample_list
from helpers.folders import write_category

NAMES = [f"{number:03}" for number in range(6)]
FILES = [f"{name}.png" for name in NAMES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in MVTec's layout with two categories."""
    root = tmp_path_factory.mktemp("parts")
    for category in ("bottle", "cable"):
        write_category(root, category, train_names=NAMES)
    return root


def mvtec(root: Path, **arguments: object) -> MVTecAD:
    return MVTecAD(root, num_workers=0, **arguments)


def train_files(datamodule: FewShot) -> list[str]:
    return [Path(path).name for path in datamodule.train_data.samples.image_path]


@pytest.mark.parametrize("k_shot", [1, 2, 4])
def test_train_data_are_the_drawn_images_alone(root: Path, k_shot: int) -> None:
    datamodule = FewShot(mvtec(root), k_shot=k_shot, seed=3)
    datamodule.setup()
    expected = [FILES[index] for index in draw_shots(FILES, k_shot, 3, "bottle")]
    assert train_files(datamodule) == expected
    assert datamodule.drawn_samples == {"bottle": expected}
    assert set(datamodule.train_data.samples.label_index) == {0}


def test_all_images_are_the_training_set(root: Path) -> None:
    datamodule = FewShot(mvtec(root), k_shot=None)
    datamodule.setup()
    assert train_files(datamodule) == FILES


def test_several_categories_are_one_data_set(root: Path) -> None:
    datamodule = FewShot(mvtec(root), categories=["bottle", "cable"], k_shot=2)
    datamodule.setup()
    single = FewShot(mvtec(root, category="cable"), k_shot=2)
    single.setup()
    assert datamodule.drawn_samples["cable"] == single.drawn_samples["cable"]
    assert len(datamodule.train_data) == 4
    assert len(datamodule.test_data) == len(datamodule.val_data) == 2 * len(single.test_data)
    assert datamodule.task == TaskType.SEGMENTATION
    assert next(iter(datamodule.test_dataloader())).gt_mask.any()


def test_category_of_every_image_is_known(root: Path) -> None:
    datamodule = FewShot(mvtec(root), categories=["bottle", "cable"])
    datamodule.setup()
    for batch in (*datamodule.train_dataloader(), *datamodule.val_dataloader(), *datamodule.test_dataloader()):
        for path in batch.image_path:
            assert datamodule.category_of(path) == Path(path).relative_to(root).parts[0]
    with pytest.raises(KeyError):
        datamodule.category_of("elsewhere.png")


def test_names_tell_the_data(root: Path) -> None:
    datamodule = FewShot(mvtec(root), categories=["bottle", "cable"])
    assert (datamodule.name, datamodule.category) == ("FewShot-MVTecAD", "bottle+cable")
    assert FewShot(mvtec(root, category="cable")).category == "cable"


def test_another_seed_tests_on_the_same_images(root: Path) -> None:
    tests, shots = set(), set()
    for seed in range(4):
        datamodule = FewShot(mvtec(root, val_split_mode="from_test"), seed=seed)
        datamodule.setup()
        tests.add(tuple(datamodule.test_data.samples.image_path))
        shots.add(tuple(train_files(datamodule)))
    assert len(tests) == 1
    assert len(shots) > 1


def test_validation_is_as_the_wrapped_datamodule_has_it(root: Path) -> None:
    for mode in ("same_as_test", "from_test", "none"):
        plain, datamodule = mvtec(root, val_split_mode=mode, seed=0), FewShot(mvtec(root, val_split_mode=mode, seed=0))
        plain.setup()
        datamodule.setup()
        assert list(datamodule.test_data.samples.image_path) == list(plain.test_data.samples.image_path)
        assert hasattr(datamodule, "val_data") == hasattr(plain, "val_data")
        if mode != "none":
            assert list(datamodule.val_data.samples.image_path) == list(plain.val_data.samples.image_path)


def test_without_validation_images_other_good_parts_stand_in_for_every_model(root: Path) -> None:
    good = {"root": root / "bottle", "normal_dir": "train/good", "num_workers": 0}
    datamodule = FewShot(Folder("part", val_split_mode="none", test_split_mode="none", **good), k_shot=2)
    datamodule.setup()
    judged = {Path(path).name for batch in datamodule.val_dataloader() for path in batch.image_path}
    assert judged == set(FILES) - set(train_files(datamodule))
    every = FewShot(Folder("part", val_split_mode="none", test_split_mode="none", **good), k_shot=len(FILES))
    every.setup()
    with pytest.raises(ValueError, match="has no images that thresholds could come from: teach fewer"):
        every.val_dataloader()


def test_settings_of_the_wrapped_datamodule_are_kept_or_replaced(root: Path) -> None:
    flip = RandomHorizontalFlip()
    wrapped = mvtec(root, train_batch_size=3, eval_batch_size=5, train_augmentations=flip)
    datamodule = FewShot(wrapped)
    datamodule.setup()
    assert (datamodule.train_batch_size, datamodule.eval_batch_size, datamodule.num_workers) == (3, 5, 0)
    assert datamodule.train_data.augmentations is flip
    assert FewShot(wrapped, train_batch_size=1, num_workers=2).num_workers == 2
    assert not hasattr(wrapped, "train_data")  # the user's instance is left alone


def test_instance_that_was_in_use_can_be_wrapped(root: Path) -> None:
    wrapped = mvtec(root)
    wrapped.setup()
    datamodule = FewShot(wrapped, categories=["cable"])
    datamodule.setup()
    assert datamodule.drawn_samples.keys() == {"cable"}
    assert len(wrapped.train_data) == 6


@pytest.mark.parametrize("form", ["class name", "mapping", "omegaconf", "instance"])
def test_every_form_of_the_wrapped_datamodule_gives_the_same(root: Path, form: str) -> None:
    config = {"class_path": "anomalib.data.MVTecAD", "init_args": {"root": str(root), "category": "cable"}}
    if form == "class name":
        assert FewShot("MVTecAD").categories == ["bottle"]
        return
    forms = {"mapping": config, "omegaconf": OmegaConf.create(config), "instance": mvtec(root, category="cable")}
    datamodule = FewShot(forms[form])
    datamodule.setup()
    assert datamodule.drawn_samples == {"cable": [FILES[draw_shots(FILES, 1, 0, "cable")[0]]]}


def test_get_datamodule_builds_it_from_nodes_of_omegaconf(root: Path) -> None:
    inner = {"class_path": "MVTecAD", "init_args": {"root": str(root), "num_workers": 0}}
    arguments = {"datamodule": inner, "categories": ["bottle", "cable"], "samples": {"bottle": ["1"], "cable": ["2"]}}
    config = OmegaConf.create({"class_path": "FewShot", "init_args": arguments})
    config.init_args.samples = {"bottle": ["001"], "cable": ["002.png"]}
    datamodule = get_datamodule(config)
    datamodule.setup()
    assert datamodule.drawn_samples == {"bottle": ["001.png"], "cable": ["002.png"]}


def test_command_line_understands_it(root: Path) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(FewShot, "data")
    arguments = ["--data.datamodule=MVTecAD", f"--data.datamodule.root={root}", "--data.categories=[bottle,cable]"]
    datamodule = parser.instantiate_classes(parser.parse_args([*arguments, "--data.k_shot=2"])).data
    datamodule.setup()
    assert len(datamodule.train_data) == 4
    parsed = parser.parse_args([*arguments[:2], "--data.categories=all", "--data.k_shot=null"])
    assert (parsed.data.categories, parsed.data.k_shot) == ("all", None)


def test_drawn_list_is_written_beside_the_results_and_can_be_fed_back(root: Path, tmp_path: Path) -> None:
    datamodule = FewShot(mvtec(root), categories=["bottle", "cable"], k_shot=2, seed=5)
    datamodule.trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path))
    datamodule.setup("fit")
    path = tmp_path / SAMPLES_FILE
    assert json.loads(path.read_text(encoding="utf-8")) == datamodule.drawn_samples
    again = FewShot(mvtec(root), categories=["bottle", "cable"], samples=path)
    again.setup()
    assert again.drawn_samples == datamodule.drawn_samples
    assert list(again.train_data.samples.image_path) == list(datamodule.train_data.samples.image_path)


def test_only_the_first_process_writes_the_list(root: Path, tmp_path: Path) -> None:
    datamodule = FewShot(mvtec(root))
    datamodule.trainer = SimpleNamespace(is_global_zero=False, default_root_dir=str(tmp_path))
    datamodule.setup("fit")
    assert not list(tmp_path.iterdir())


def test_lists_of_other_categories_are_ignored(root: Path, tmp_path: Path) -> None:
    path = write_sample_list(tmp_path / "samples.yaml", {"bottle": ["000", "003"], "wood": ["001"]})
    datamodule = FewShot(mvtec(root), samples=path)
    datamodule.setup()
    assert datamodule.drawn_samples == {"bottle": ["000.png", "003.png"]}
    assert datamodule.k_shot == 2


def test_folder_without_normal_test_images_never_trains_on_test_images(root: Path) -> None:
    folder = Folder("widget", normal_dir="train/good", abnormal_dir="test/hole", root=root / "bottle", num_workers=0)
    datamodule = FewShot(folder, k_shot=2)
    datamodule.setup()
    tested = {*datamodule.test_data.samples.image_path, *datamodule.val_data.samples.image_path}
    assert datamodule.categories == ["widget"]
    assert not tested & set(datamodule.train_data.samples.image_path)
    assert set(datamodule.train_data.samples.label_index) == {0}
    assert datamodule.task == TaskType.CLASSIFICATION  # it has no masks
    again = FewShot(folder, k_shot=2)
    again.setup()
    assert again.drawn_samples == datamodule.drawn_samples


def test_nested_names_can_be_fed_back(root: Path, tmp_path: Path) -> None:
    for line in ("a", "b"):
        shutil.copytree(root / "bottle" / "train" / "good", tmp_path / "good" / line)
    folders = {"normal_dir": ["good/a", "good/b"], "abnormal_dir": str(root / "bottle" / "test" / "hole")}
    datamodule = FewShot(Folder("widget", root=tmp_path, num_workers=0, seed=0, **folders), k_shot=4)
    datamodule.setup()
    assert {name.split("/")[0] for name in datamodule.drawn_samples["widget"]} <= {"a", "b"}
    fed = FewShot(Folder("widget", root=tmp_path, num_workers=0, seed=0, **folders), samples=datamodule.drawn_samples)
    fed.setup()
    assert fed.drawn_samples == datamodule.drawn_samples


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"categories": ["bottel"]},
            r"MVTecAD has no category 'bottel' \(did you mean 'bottle'\?\); choose from bottle",
        ),
        ({"categories": ["bottle", "bottle"]}, "'bottle' is named 2 times"),
        ({"categories": []}, "categories must be 'all' or a list of names"),
        ({"categories": [1]}, "categories must be 'all' or a list of names"),
        ({"k_shot": 0}, "k_shot must be an integer, 1 or more"),
        ({"k_shot": True}, "k_shot must be an integer, 1 or more"),
        ({"samples": {"cable": ["000"]}}, "no entry for category 'bottle'; it has cable"),
        ({"samples": {"bottle": "000"}}, "must map every category to a list"),
    ],
)
def test_wrong_argument_is_an_error(root: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShot(mvtec(root), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k_shot": 7}, "'bottle' has 6 normal"),
        ({"samples": {"bottle": ["099"]}}, "'bottle' names '099', which is not among its 6"),
    ],
)
def test_images_that_are_not_there_are_an_error(root: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FewShot(mvtec(root), **arguments).setup()


def test_missing_sample_list_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        FewShot(mvtec(root), samples=tmp_path / "none.json")


def test_missing_masks_are_an_error_that_names_the_category(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "cable", tmp_path / "cable", ignore=shutil.ignore_patterns("ground_truth"))
    with pytest.raises(ValueError, match=r"'cable' of MVTecAD cannot be read; .* every anomalous image has a mask"):
        FewShot(mvtec(tmp_path, category="cable")).setup()
