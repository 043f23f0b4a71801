# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""No verdict rests on images that the memory holds, and no judgment on what is for training alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from PIL import Image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data.image_reading import image_digest
from anople_anomalib.data.parts import Parts
from anople_anomalib.training.copies import parts_of, thumbnail
from helpers.folders import write_category
from helpers.training import make_datamodule, make_engine, make_model, read, train_model

PART = np.random.default_rng(0).integers(90, 150, (96, 96, 3))


def write_frames(folder: Path, number: int, noise: float) -> Path:
    """Frames of a video of one part; copies of a file without noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for index in range(number):
        frame = np.clip(PART + rng.normal(0, noise, PART.shape), 0, 255).astype(np.uint8)
        Image.fromarray(frame).save(folder / f"{index:02d}.png")
    return folder


def save_anew(source: Path, target: Path, suffix: str) -> None:
    """The same pixels in other files."""
    target.mkdir()
    for path in source.iterdir():
        Image.open(path).save((target / path.name).with_suffix(suffix), compress_level=1)


def train_on(folder: Path, results: Path, k_shot: int) -> AnoPLe:
    model = make_model(k_shot=k_shot, epochs=1)
    datamodule = Folder(
        "part", root=folder.parent, normal_dir="good", val_split_mode="none", test_split_mode="none", num_workers=0
    )
    make_engine(results).fit(model, datamodule=datamodule)
    return model


@pytest.mark.parametrize("copied", ["", ".png", ".bmp", ".tiff"])
@pytest.mark.parametrize("to", ["validation", "test"])
def test_shots_among_validation_or_test_images_are_refused(tmp_path: Path, copied: str, to: str) -> None:
    root = write_category(tmp_path / "data") / "bottle"
    if copied:
        save_anew(root / "train" / "good", root / "again", copied)
    datamodule = Folder(
        "bottle",
        root=root,
        normal_dir="train/good",
        normal_test_dir="again" if copied else "train/good",
        abnormal_dir="test/hole",
        val_split_mode="same_as_test" if to == "validation" else "none",
        num_workers=0,
    )
    message = rf"3 of 5 images of the {to} are shots or copies of them, such as '.*': their distance to the memory is 0"
    with pytest.raises(ValueError, match=message):
        make_engine(tmp_path).fit(make_model(k_shot=3, epochs=1), datamodule=datamodule)


@pytest.mark.parametrize(("number", "k_shot", "noise"), [(4, 4, 0), (6, 1, 2)], ids=["copies", "frames"])
def test_a_threshold_does_not_rest_on_copies(
    tmp_path: Path, number: int, k_shot: int, noise: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The other frames would say that good parts do not differ at all."""
    model = train_on(write_frames(tmp_path / "many" / "good", number, noise), tmp_path / "many_results", k_shot)
    assert ("The 4 shots show 1 different parts" in caplog.text) == (k_shot == 4)
    single = train_on(write_frames(tmp_path / "one" / "good", 1, noise), tmp_path / "one_results", 1)
    thresholds = [float(each.post_processor.image_threshold) for each in (model, single)]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=0.5)


def test_different_parts_are_told_from_frames_of_one() -> None:
    first, second = torch.rand(1, 3, 90, 110), torch.rand(1, 3, 90, 110)
    frame = (first + 0.008 * torch.randn_like(first)).clamp(0, 1)
    assert parts_of([thumbnail(image) for image in (first, second, frame)]) == [0, 1, 0]
    assert parts_of([]) == []


def test_shots_and_calibration_of_many_bits_are_known_with_their_white(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("good", "calibration"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            image = Image.fromarray(rng.integers(0, 4096, (60, 60), dtype=np.uint16))
            image.save(tmp_path / folder / f"{number}.png")
    parts = {"normal_dir": "good", "calibration_dir": "calibration", "white": 4095}
    model = make_model(k_shot=None, epochs=1)
    make_engine(tmp_path / "results").fit(model, datamodule=Parts(tmp_path, **parts))
    files = [*(tmp_path / "good").iterdir(), *(tmp_path / "calibration").iterdir()]
    assert {*model.post_processor.known_images} == {image_digest(file, 4095) for file in files}
    Image.open(tmp_path / "good" / "0.png").save(tmp_path / "calibration" / "2.tiff")
    with pytest.raises(ValueError, match=r"1 of 3 images of the validation are shots or copies of them"):
        make_engine(tmp_path).fit(make_model(k_shot=None), datamodule=Parts(tmp_path, **parts))
    Image.open(tmp_path / "calibration" / "0.png").save(tmp_path / "calibration" / "2.tiff")
    with pytest.raises(ValueError, match=r"2\.tiff' and '.*0\.png' are the same picture: a copy is no other part"):
        Parts(tmp_path, **parts).setup()


def test_textures_are_for_training_alone(mvtec: Path, tmp_path: Path) -> None:
    textures = write_frames(tmp_path / "textures", 2, 0)
    model = train_model(mvtec, tmp_path, anomaly_source=str(textures))
    model.save_checkpoint(tmp_path / "model.ckpt")
    shutil.rmtree(textures)
    loaded = AnoPLe.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False)
    make_engine(tmp_path).predict(loaded, datamodule=make_datamodule(mvtec))
    with pytest.raises(FileNotFoundError, match=r"training.anomaly_source must be"):
        make_engine(tmp_path).fit(loaded, datamodule=make_datamodule(mvtec))


def test_a_run_without_a_validation_says_that_there_is_no_threshold(
    mvtec: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_engine(tmp_path, limit_val_batches=0).fit(make_model(epochs=1), datamodule=make_datamodule(mvtec))
    assert "There was no validation, so that there is no threshold" in caplog.text


def test_a_checkpoint_names_the_shots_that_are_in_it_after_a_resumption_with_other_data(tmp_path: Path) -> None:
    first = make_engine(tmp_path / "first", max_epochs=1)
    root = write_category(tmp_path / "data")
    first.fit(make_model(k_shot=1), datamodule=make_datamodule(root))
    other = write_category(tmp_path / "other", "screw", ["100", "101"])
    second = make_engine(tmp_path / "second", max_epochs=2)
    datamodule = make_datamodule(other, category="screw")
    second.fit(make_model(k_shot=2), datamodule=datamodule, ckpt_path=first.best_model_path)
    content = read(second.best_model_path)
    metadata, known = content["anople"], content["anomalib_post_processor_config"]["known_images"]
    judged = [*(other / "screw" / "train").rglob("*.png"), *(other / "screw" / "test").rglob("*.png")]
    assert known == sorted(map(image_digest, judged))
    assert metadata["drawn_samples"] == {"screw": ["100.png", "101.png"]}
    assert metadata["class_names"] == ["screw"]
