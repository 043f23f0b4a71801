# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data that anomalib would read wrongly, refused before a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import Datumaro, Folder, MVTecAD, PredictDataset
from PIL import Image, ImageFilter

from anople_anomalib.data import FewShot, Parts
from anople_anomalib.data.listing import each_image
from anople_anomalib.method.anomaly_simulation import PixelAnomalySimulator
from helpers.training import make_engine, make_model

TURNED = Image.Exif()
TURNED[0x0112] = 3  # upside down
HIDDEN = (".ipynb_checkpoints/0-checkpoint.png", "._0.png")


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 140, (60, 70, 3), dtype=np.uint8)


def square(top: int) -> np.ndarray:
    mask = np.zeros((60, 70), np.uint8)
    mask[top : top + 20, 10:40] = 255
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two kinds of defects, whose masks lie in folders that sort the other way, below a hidden folder."""
    root = tmp_path / ".cache" / "data"
    for index in range(3):
        save(noise(index), root / "good" / f"{index}.png")
    for index, (bad, mask) in enumerate({"a": "m_z", "b": "m_b"}.items()):
        save(np.where(square(30 * index)[..., None], np.uint8(250), noise(9)), root / bad / "0.png")
        save(square(30 * index), root / mask / "0.png")
    return root


def folder(root: Path, **arguments: Any) -> Folder:
    defaults = {
        "name": "part",
        "root": root,
        "normal_dir": "good",
        "abnormal_dir": ["a", "b"],
        "mask_dir": ["m_z", "m_b"],
        "num_workers": 0,
        "val_split_mode": "same_as_test",
        "seed": 0,
    }
    return Folder(**{**defaults, **arguments})


def masks_of(datamodule: Any) -> set[tuple[str, str]]:
    samples = datamodule.test_data.samples
    rows = samples[samples.label_index == 1]
    names = ("/".join(Path(path).parts[-2:]) for column in ("image_path", "mask_path") for path in rows[column])
    names = list(names)
    return set(zip(names[: len(rows)], names[len(rows) :], strict=True))


def wrapped_or_not(root: Path, **arguments: Any) -> list[Any]:
    return [folder(root, **arguments), FewShot(folder(root, **arguments))]


def fit(datamodule: Any, tmp_path: Path) -> None:
    make_engine(tmp_path).fit(make_model(epochs=1), datamodule=datamodule)


def test_masks_in_another_order_than_the_images_are_refused(root: Path, tmp_path: Path) -> None:
    plain = folder(root)
    plain.setup()
    assert masks_of(plain) == {("a/0.png", "m_b/0.png"), ("b/0.png", "m_z/0.png")}  # anomalib's own
    for datamodule in wrapped_or_not(root):
        with pytest.raises(
            ValueError, match=r"m_b/0.png' for the mask of '.*a/0.png', which is '.*m_z/0.png': .*Parts"
        ):
            fit(datamodule, tmp_path)
    parts = Parts(root, abnormal_dir=["a", "b"], mask_dir=["m_z", "m_b"])
    fit(parts, tmp_path)
    assert masks_of(parts) == {("a/0.png", "m_z/0.png"), ("b/0.png", "m_b/0.png")}


def test_a_turned_mask_or_a_photograph_as_one_is_refused_where_anomalib_reads_it(root: Path, tmp_path: Path) -> None:
    one = {"abnormal_dir": "a", "mask_dir": "m_z"}
    Image.fromarray(np.rot90(square(0), 2).copy()).save(root / "m_z" / "0.png", exif=TURNED)
    for datamodule in wrapped_or_not(root, **one):
        with pytest.raises(
            ValueError, match=r"The mask '.*m_z/0\.png' is marked by its EXIF data as rotated.*--data Parts"
        ):
            fit(datamodule, tmp_path)
    fit(Parts(root, **one), tmp_path)
    save(noise(0), root / "m_z" / "0.png")
    for datamodule in (*wrapped_or_not(root, **one), Parts(root, **one)):
        with pytest.raises(ValueError, match=r"The mask '.*m_z/0\.png' is no mask: most of it"):
            fit(datamodule, tmp_path)


@pytest.mark.parametrize("layout", ["Folder", "MVTecAD"])
def test_files_numbered_without_zeros_are_refused_by_name_or_read_by_parts(
    root: Path, tmp_path: Path, layout: str
) -> None:
    images, masks = ("a", "m_z") if layout == "Folder" else ("test/bad", "ground_truth/bad")
    part = root / "part" if layout == "MVTecAD" else root
    for number in (1, 2, 10):
        for name in (images, "train/good"):
            save(noise(number), part / name / f"{number}.png")
        save(square(number), part / masks / f"{number}_mask.png")
    (root / "a" / "0.png").unlink(), (root / "m_z" / "0.png").unlink()
    makes = {
        "Folder": lambda: folder(root, abnormal_dir="a", mask_dir="m_z"),
        "MVTecAD": lambda: MVTecAD(root, "part", num_workers=0),
    }
    for datamodule in (makes[layout](), FewShot(makes[layout]())):
        said = r"/10_mask.png' for the mask of '.*/1.png', which is '.*/1_mask.png': .*Parts"
        with pytest.raises(ValueError, match=said):
            fit(datamodule, tmp_path)
    parts = Parts(part, normal_dir="train/good", abnormal_dir=images, mask_dir=masks)
    parts.setup()
    names = {(Path(image).stem, Path(mask).stem) for image, mask in masks_of(parts)}
    assert names == {(str(number), f"{number}_mask") for number in (1, 2, 10)}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_are_refused_where_anomalib_takes_them(root: Path, tmp_path: Path, name: str) -> None:
    save(noise(5), root / "good" / name)
    alone = {"abnormal_dir": None, "mask_dir": None, "val_split_mode": "none", "test_split_mode": "none"}
    for datamodule in wrapped_or_not(root, **alone):
        with pytest.raises(ValueError, match=rf"good/{name}' is one of 1 files that end like images.*Parts"):
            fit(datamodule, tmp_path)
    parts = Parts(root)
    parts.setup()
    assert len(parts.train_data) == len(list(each_image(root / "good"))) == 3
    simulator = PixelAnomalySimulator(root / "good")
    simulator.find_textures()
    textures = simulator.generator.anomaly_source_paths
    assert sorted(Path(path).name for path in textures) == ["0.png", "1.png", "2.png"]
    model, engine = make_model(epochs=1, k_shot=2), make_engine(tmp_path)
    engine.fit(model, datamodule=parts)
    with pytest.raises(ValueError, match=rf"good/{name}' is one of 1 files that end like images"):
        engine.predict(model, data_path=root / "good")


def test_other_endings_beside_predicted_images_are_named(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, kind in (("3.jfif", "JPEG"), ("4.gif", "GIF")):
        Image.fromarray(noise(0)).save(root / "good" / name, format=kind)
    (root / "good" / "5.HEIC").touch(), (root / "good" / "0.dng").touch()  # the raw data of 0.png
    (root / "good" / "notes.txt").write_text("no image")
    model, engine = make_model(epochs=1, k_shot=2), make_engine(tmp_path)
    engine.fit(model, datamodule=Parts(root))
    caplog.clear()
    engine.predict(model, dataset=PredictDataset(root / "good"))
    assert "3 files are left out, whose ending is not one that anomalib reads" in caplog.text
    caplog.clear()
    engine.predict(model, data_path=root / "good" / "0.png")  # one of several: asked for by its name
    assert "left out" not in caplog.text


def test_soft_masks_are_refused_and_read_right_by_parts(root: Path, tmp_path: Path) -> None:
    for mask in ("m_z", "m_b"):
        path = root / mask / "0.png"
        Image.open(path).filter(ImageFilter.GaussianBlur(3)).convert("L").save(path.with_suffix(".jpg"))
        path.unlink()
    for datamodule in wrapped_or_not(root, abnormal_dir="a", mask_dir="m_z"):
        with pytest.raises(ValueError, match=r"takes every pixel of a mask that is not black.*m_z/0.jpg'.*Parts"):
            fit(datamodule, tmp_path)
    parts = Parts(root, abnormal_dir=["a", "b"], mask_dir=["m_z", "m_b"])
    parts.setup()
    areas = [item.gt_mask.sum().item() for item in parts.test_data if item.gt_label]
    assert areas == pytest.approx([600, 600], rel=0.06)


@pytest.mark.parametrize("kind", ["black", "transparent", "turned"])
def test_masks_that_mark_nothing_or_would_be_stretched_are_named(root: Path, tmp_path: Path, kind: str) -> None:
    mask = {"black": square(0) * 0, "turned": np.rot90(square(0)), "transparent": np.zeros((60, 70, 4), np.uint8)}[kind]
    save(np.ascontiguousarray(mask), root / "m_z" / "0.png")
    said = "it would be stretched" if kind == "turned" else "marks no pixel"
    for datamodule in wrapped_or_not(root, abnormal_dir="a", mask_dir="m_z"):
        with pytest.raises(ValueError, match=rf"The mask '.*m_z/0.png'.*a/0.png'.*{said}"):
            fit(datamodule, tmp_path)


@pytest.mark.parametrize("name", ["10.png", "other.png"])  # the first one is fine with anomalib
def test_a_mask_of_another_name_is_named(root: Path, tmp_path: Path, name: str) -> None:
    (root / "m_z" / "0.png").rename(root / "m_z" / name)
    for datamodule in wrapped_or_not(root):
        with pytest.raises(ValueError, match=r"a/0\.png' has no mask"):
            fit(datamodule, tmp_path)


def test_a_mask_without_an_image_is_named(root: Path) -> None:
    save(square(0), root / "m_b" / "7.png")
    with pytest.raises(ValueError, match=r"m_b/7\.png' belongs to no image"):
        FewShot(folder(root)).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"abnormal_dir": "a", "mask_dir": None, "test_split_ratio": 0.5},
            "has drawn 1 of the good images at random for a test",
        ),
        ({"val_split_mode": "from_train"}, "draws its validation images at random .val_split_mode 'from_train'."),
    ],
)
def test_a_random_split_needs_a_seed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    with pytest.raises(ValueError, match=rf"Folder {message} and has no seed.*--data.seed 0"):
        fit(folder(root, seed=None, **arguments), tmp_path)


def test_images_that_are_taught_are_not_judged(root: Path) -> None:
    few = FewShot(folder(root, abnormal_dir="a", mask_dir="m_z", normal_test_dir="good"))
    with pytest.raises(ValueError, match=r"good/0.png' is one of 3 images of Folder that are both for training and"):
        few.setup()


def test_a_test_on_defects_alone_is_refused(root: Path, tmp_path: Path) -> None:
    for datamodule in wrapped_or_not(root, abnormal_dir="a", mask_dir="m_z", test_split_mode="none"):
        with pytest.raises(ValueError, match=r"Folder tests on defects alone.*--data.test_split_mode from_dir"):
            fit(datamodule, tmp_path)


@pytest.mark.parametrize(
    ("labels", "items", "message"),
    [
        (["scratch", "good"], ["good", "scratch"], "are 0 'scratch', 1 'good', and number 0 is normal to anomalib"),
        (["OK", "scratch", "dent"], ["OK", "dent"], "anomalib leaves out all images of 'dent' and later ones"),
        (["Normal", "scratch"], ["Normal", "scratch", None], "the image '2' is one of 1 without any"),
        (["No defect", "scratch"], ["No defect", "scratch"], None),
    ],
)
def test_labels_of_datumaro_are_checked_by_their_names(
    tmp_path: Path, labels: list[str], items: list[str | None], message: str | None
) -> None:
    content = {
        "categories": {"label": {"labels": [{"name": label} for label in labels]}},
        "items": [
            {
                "id": str(number),
                "image": {"path": f"{number}.png"},
                "annotations": [] if label is None else [{"label_id": labels.index(label)}],
            }
            for number, label in enumerate(items)
        ],
    }
    for number in range(len(items)):
        save(noise(number), tmp_path / "images" / "default" / f"{number}.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "default.json").write_text(json.dumps(content))
    few = FewShot(Datumaro(tmp_path, num_workers=0, val_split_mode="none", test_split_mode="none"))
    if message is None:
        with pytest.raises(ValueError, match="Datumaro tests on defects alone"):
            few.setup()
    else:
        with pytest.raises(ValueError, match=message):
            few.setup()
