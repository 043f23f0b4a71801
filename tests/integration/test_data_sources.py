# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Anomalib's datamodules, their validation sets, and images to predict."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import AnomalibDataModule, BTech, Folder, MVTecAD, PredictDataset, Visa
from anomalib.engine import Engine

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data import FewShot
from helpers.training import make_engine, make_model

pytestmark = pytest.mark.usefixtures("_quiet_process")
Make = Callable[..., AnomalibDataModule]
IMAGE = {"image_AUROC", "image_F1Score"}
PIXEL = {"pixel_AUROC", "pixel_F1Score"}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The same images in the layouts of MVTec AD, VisA, BTech and of a folder of one's own."""
    root = tmp_path_factory.mktemp("layouts")
    source = images / "bottle"
    for names, folder in (
        (("good", "good", "hole"), root / "mvtec" / "bottle"),
        (("good", "good", "bad"), root / "visa" / "visa_pytorch" / "candle"),
        (("ok", "ok", "ko"), root / "btech" / "01"),
    ):
        train, test, bad = names
        shutil.copytree(source / "train" / "good", folder / "train" / train)
        shutil.copytree(source / "test" / "good", folder / "test" / test)
        shutil.copytree(source / "test" / "hole", folder / "test" / bad)
        for mask in (source / "ground_truth" / "hole").iterdir():
            name = mask.name if "mvtec" in folder.parts else mask.name.replace("_mask", "")
            (folder / "ground_truth" / bad).mkdir(parents=True, exist_ok=True)
            shutil.copy(mask, folder / "ground_truth" / bad / name)
    own, btech = root / "own", root / "btech" / "01"
    shutil.copytree(btech / "train" / "ok", own / "good")
    shutil.copytree(btech / "test" / "ok", own / "good_test")
    shutil.copytree(btech / "test" / "ko", own / "bad")
    shutil.copytree(btech / "ground_truth" / "ko", own / "masks")
    return root


@pytest.fixture(scope="module")
def datamodules(layouts: Path) -> dict[str, Make]:
    """Functions that make a datamodule, by a description of its data."""
    few = {"num_workers": 0, "seed": 0}
    own = {"name": "my_screws", "root": layouts / "own", "normal_dir": "good", **few}
    anomalous = {"abnormal_dir": "bad", "normal_test_dir": "good_test"}
    return {
        "MVTecAD": lambda **mode: MVTecAD(layouts / "mvtec", "bottle", **few, **mode),
        "Visa": lambda **mode: Visa(layouts / "visa", "candle", **few, **mode),
        "BTech": lambda **mode: BTech(layouts / "btech", "01", **few, **mode),
        "Folder with masks": lambda **mode: Folder(**own, **anomalous, mask_dir="masks", **mode),
        "Folder without masks": lambda **mode: Folder(**own, **anomalous, **mode),
        "Folder without anomalous images": lambda **mode: Folder(**own, normal_test_dir="good_test", **mode),
        "Folder of normal images alone": lambda **mode: Folder(**own, **mode),
        "FewShot": lambda **mode: FewShot(Folder(**own, **mode), k_shot=2),
    }


SOURCES = {
    "MVTecAD": ("bottle", IMAGE | PIXEL),
    "Visa": ("candle", IMAGE | PIXEL),
    "BTech": ("object", IMAGE | PIXEL),
    "Folder with masks": ("my screws", IMAGE | PIXEL),
    "Folder without masks": ("my screws", IMAGE),
    "Folder without anomalous images": ("my screws", set()),
    "Folder of normal images alone": ("my screws", set()),
    "FewShot": ("my screws", set()),
}
"""The class name and the metrics of every kind of data."""
SPLITS = ("from_test", "from_train", "synthetic", "none")
OF_ALL_SPLITS = ("MVTecAD", "Folder without masks", "Folder of normal images alone")


@pytest.mark.parametrize(
    ("name", "validation"),
    [(name, "same_as_test") for name in SOURCES] + [(name, split) for name in OF_ALL_SPLITS for split in SPLITS],
)
def test_data_and_validation(datamodules: dict[str, Make], tmp_path: Path, name: str, validation: str) -> None:
    class_name, metrics = SOURCES[name]
    model, datamodule = make_model(epochs=1), datamodules[name](val_split_mode=validation)
    (results,) = make_engine(tmp_path).train(model, datamodule=datamodule)
    assert model.class_names == [class_name]
    assert set(results) == metrics
    if "alone" not in name and "without anomalous" not in name and name != "FewShot":
        assert results["image_AUROC"] > 0.5
    post_processor = model.post_processor
    for value in ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max"):
        assert getattr(post_processor, value).isfinite(), value


@pytest.mark.parametrize("number", [1, 4])
def test_a_handful_of_good_images_is_enough(layouts: Path, tmp_path: Path, number: int) -> None:
    """Nothing but good images: the thresholds tell a damaged one from the ones that were seen."""
    for path in sorted((layouts / "own" / "good").iterdir())[:number]:
        (tmp_path / "good").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "good")
    datamodule = Folder("screw", root=tmp_path, normal_dir="good", val_split_mode="none", num_workers=0)
    model, engine = make_model(epochs=1, k_shot=1), make_engine(tmp_path)
    assert engine.train(model, datamodule=datamodule) == []  # there is nothing to test on
    bad, seen = layouts / "own" / "bad" / "000.png", tmp_path / "good" / model.drawn_samples["screw"][0]
    labels = [engine.predict(model, dataset=PredictDataset(path))[0].pred_label.item() for path in (bad, seen)]
    assert labels == [True, False]


@pytest.fixture(scope="module")
def trained(datamodules: dict[str, Make], tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, AnoPLe]:
    """An engine, and the model that it has trained."""
    model, engine = make_model(epochs=1), make_engine(tmp_path_factory.mktemp("training"))
    engine.fit(model, datamodule=datamodules["MVTecAD"]())
    return engine, model


@pytest.mark.parametrize("source", ["image", "folder", "PredictDataset", "datamodule", "data loader"])
def test_images_to_predict(
    datamodules: dict[str, Make], layouts: Path, trained: tuple[Engine, AnoPLe], source: str
) -> None:
    (engine, model), datamodule = trained, datamodules["MVTecAD"]()
    datamodule.prepare_data()
    datamodule.setup()
    folder = layouts / "own" / "bad"
    arguments = {
        "image": {"data_path": folder / "000.png"},
        "folder": {"data_path": folder},
        "PredictDataset": {"dataset": PredictDataset(folder)},
        "datamodule": {"datamodule": datamodule},
        "data loader": {"dataloaders": datamodule.test_dataloader()},
    }
    batches = engine.predict(model, **arguments[source])
    paths = [Path(path) for batch in batches for path in batch.image_path]
    assert len(paths) == {"image": 1, "folder": 4, "PredictDataset": 4, "datamodule": 8, "data loader": 8}[source]
    scores = torch.cat([batch.pred_score.flatten() for batch in batches])
    assert scores[[path.parent.name in {"bad", "hole"} for path in paths]].min() > 0.5  # the normalized threshold
    assert scores.max() < 1
