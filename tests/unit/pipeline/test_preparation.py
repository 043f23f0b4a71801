# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Learning from auxiliary data before the shots: what is refused, what is kept, and what a model is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anomalib.models
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.models import AnomalibModule, Padim
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anople_anomalib.baselines.shot_memory import IMAGENET_MEAN, IMAGENET_STD, ShotMemory, ShotModel
from anople_anomalib.baselines.transfer import AuxiliaryCategory, AuxiliaryLearner, auxiliary_data
from anople_anomalib.data.sample_textures import CACHE_VARIABLE
from anople_anomalib.pipeline import preparation
from anople_anomalib.pipeline.building import build_data
from anople_anomalib.pipeline.job import FewShotJob
from anople_anomalib.pipeline.preparation import Preparation, prepare
from anople_anomalib.pipeline.results import ResultsTable
from anople_anomalib.pipeline.settings import JobSettings, expand_jobs
from helpers.folders import write_category


class MeanModel(ShotModel):
    """Scores a pixel by its distance to a learned gray, and an image by its largest."""

    weights = 0.0  # of a frozen part, which is in no state dict

    def __init__(self) -> None:
        super().__init__()
        self.gray = nn.Parameter(torch.rand(()))
        self.register_buffer("frozen", torch.tensor(self.weights), persistent=False)
        self.register_buffer("has_learned", torch.tensor(data=False))
        self.register_buffer("is_fitted", torch.tensor(data=False))

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (images.mean(dim=(1, 2, 3)),)

    def fit(self, features: Any) -> None:
        del features

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = (images.mean(dim=1, keepdim=True) - self.gray).abs()
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)


class Learner(AuxiliaryLearner, ShotMemory, AnomalibModule):
    """Learns the mean gray of the auxiliary training images."""

    model: MeanModel
    seen: list[dict[str, int]] = []  # noqa: RUF012  # what all instances were given

    def __init__(self, training_seed: int = 0, **components: Any) -> None:
        super().__init__(**components)
        self.model = MeanModel()
        self.model.seed = training_seed

    def learn_from_auxiliary(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> None:
        self.seen.append({name: len(category.train) for name, category in auxiliary.items()})
        batches = [
            next(iter(DataLoader(each.train, 9, collate_fn=each.train.collate_fn))) for each in auxiliary.values()
        ]
        with torch.no_grad():
            self.model.gray.copy_(torch.cat([self.pre_processor.transform(batch.image) for batch in batches]).mean())
        self.model.has_learned.fill_(value=True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(anomalib.models, "Learner", Learner, raising=False)
    monkeypatch.setattr(Learner, "seen", [])
    for category, names in {"bottle": ("a", "b"), "cable": ("c", "d", "e"), "mug": ("f",)}.items():
        write_category(tmp_path / "data", category, names, num_test=2, grain=category)
    return tmp_path / "data"


def job(root: Path, auxiliary: object, model: str = "Learner", seed: int = 3, **init_args: object) -> JobSettings:
    mvtec = {"class_path": "MVTecAD", "init_args": {"root": str(root), "num_workers": 0}}
    data = {"class_path": "FewShot", "init_args": {"datamodule": mvtec, "categories": "bottle"}}
    if auxiliary == {}:
        auxiliary = {"datamodule": mvtec}
    given = {"class_path": model, "init_args": init_args} | ({} if auxiliary is None else {"auxiliary": auxiliary})
    return expand_jobs({"seed": seed, "model": given, "data": data}, "cpu")[0]


def prepared(settings: JobSettings) -> Preparation:
    return prepare(settings, build_data(settings), torch.device("cpu"), None)


def test_it_learns_from_all_other_categories_once(root: Path) -> None:
    first, second = prepared(job(root, {})), prepared(job(root, {}))
    assert Learner.seen == [{"cable": 3, "mug": 1}]
    assert first.columns == second.columns
    assert first.columns["transfer"] == "MVTecAD: cable;mug"
    assert first.columns["preparation_seconds"] > 0
    assert first.state["has_learned"]
    assert first.state["gray"] == second.state["gray"]
    normalized = [(114.5 / 255 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert float(first.state["gray"]) == pytest.approx(sum(normalized) / 3, abs=0.02)


def test_other_seeds_arguments_and_data_are_learned_anew(root: Path) -> None:
    prepared(job(root, {}))
    prepared(job(root, {}, seed=4))
    for seed in (4, 5):  # draws of shots for one preparation
        prepared(job(root, {}, seed=seed, training_seed=0))
    path = root / "mug" / "train" / "good" / "f.png"
    path.write_bytes(path.read_bytes() + b"another")
    prepared(job(root, {}))
    assert len(Learner.seen) == 4


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (["bottle", "mug"], "the category 'bottle', which is tested"),
        ("all", "the category 'bottle', which is tested"),
        (["mugs"], "no category 'mugs'"),
    ],
)
def test_the_target_is_no_auxiliary_category(root: Path, categories: object, message: str) -> None:
    mvtec = job(root, {}).auxiliary["datamodule"]
    with pytest.raises(ValueError, match=message):
        prepared(job(root, {"datamodule": mvtec, "categories": categories}))
    assert Learner.seen == []


@pytest.mark.parametrize("name", ["test/hole/000.png", "test/good/001.png", "train/good/a.png", "train/good/b.png"])
@pytest.mark.parametrize("compress_level", [1, 9])
def test_the_targets_images_are_refused_under_another_name_shots_or_not(
    root: Path, name: str, compress_level: int
) -> None:
    Image.open(root / "bottle" / name).save(root / "mug" / "train" / "good" / "g.png", compress_level=compress_level)
    with pytest.raises(ValueError, match=rf"mug/train/good/g\.png' is the image '.*bottle/{name}'"):
        prepared(job(root, {}))


def test_what_was_learned_from_other_weights_or_on_another_device_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, learned_on = job(root, {}), []
    learn = preparation._learn

    def on_the_cpu(*arguments: Any) -> None:
        learned_on.append(arguments[4].type)
        learn(*arguments[:4], torch.device("cpu"), *arguments[5:])

    monkeypatch.setattr(preparation, "_learn", on_the_cpu)
    for name in ("cpu", "cuda", "cpu"):
        prepare(settings, build_data(settings), torch.device(name), None)
    assert learned_on == ["cpu", "cuda"]
    monkeypatch.setattr(MeanModel, "weights", 1.0)
    prepared(settings)
    assert learned_on == ["cpu", "cuda", "cpu"]


def test_a_row_counts_the_parameters_that_were_learned_before_the_shots(root: Path) -> None:
    assert prepared(job(root, {})).columns["trainable_parameters"] == 1


def test_the_targets_folder_is_refused_under_another_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "cup").symlink_to(root / "bottle", target_is_directory=True)
    monkeypatch.setattr(preparation, "image_digest", lambda path, _: path)  # by path alone
    with pytest.raises(ValueError, match=r"/bottle/.*\.png' of the data that are tested: take the category 'cup'"):
        prepared(job(root, {"datamodule": job(root, {}).auxiliary["datamodule"], "categories": ["cup"]}))


def test_who_needs_auxiliary_data_and_has_none_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="Learner learns from other data before it sees the shots: name"):
        prepared(job(root, None))


def test_map_and_score_of_anomalygpt_need_no_auxiliary_data_in_a_comparison(root: Path, tmp_path: Path) -> None:
    FewShotJob(job(root, None, model="AnomalyGPT", backbone="anople-tiny"), tmp_path / "results").run()
    (row,) = ResultsTable(tmp_path / "results").rows()
    assert (row["status"], row["error"], row["transfer"], row["trainable_parameters"]) == ("ok", "", "", "0")


def test_who_learns_from_shots_alone_takes_no_auxiliary_data(root: Path) -> None:
    with pytest.raises(ValueError, match="Padim learns from its shots alone: take `auxiliary` out"):
        prepared(job(root, {}, model="Padim"))
    assert prepared(job(root, None, model="Padim")) == Preparation({}, {})


@pytest.mark.parametrize(
    ("auxiliary", "message"),
    [
        ("Visa", "auxiliary must be a mapping"),
        ({"categories": []}, "datamodule is missing in auxiliary"),
        ({"datamodule": "Visa", "categories": []}, r"categories of auxiliary must be .* got \[\]"),
        ({"datamodule": "Visa", "categories": 3}, "categories of auxiliary must be .* got 3"),
        ({"datamodule": "Visa", "categories": None}, "categories of auxiliary must be .* got None"),
    ],
)
def test_wrong_settings_are_a_clear_error(root: Path, auxiliary: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(root, auxiliary)


def test_a_job_fits_what_has_learned(root: Path, tmp_path: Path) -> None:
    FewShotJob(job(root, {}), tmp_path / "results").run()
    (row,) = ResultsTable(tmp_path / "results").rows()
    assert (row["status"], row["error"]) == ("ok", "")
    assert row["transfer"] == "MVTecAD: cable;mug"
    assert float(row["preparation_seconds"]) > 0
    assert float(row["image_AUROC"]) == 1  # a bright square on gray


def test_images_come_as_the_model_takes_them_but_not_normalized(root: Path) -> None:
    mvtec = job(root, {}).auxiliary["datamodule"]
    category = auxiliary_data(mvtec, ["cable"], Padim.configure_pre_processor((32, 48)).transform)["cable"]
    anomalous = next(item for item in category.test if item.gt_label)
    assert (anomalous.image.shape, anomalous.gt_mask.shape) == ((3, 32, 48), (32, 48))
    assert 0 <= anomalous.image.min() <= anomalous.image.max() <= 1
    assert isinstance(category.train.augmentations, Resize)
