# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Every image datamodule of anomalib goes through FewShot: good and defective test images as its authors publish."""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anomalib.data
import numpy as np
import pandas as pd
import pytest
from anomalib.data import AnomalibDataModule
from anomalib.data.datamodules import image as image_datamodules
from PIL import Image

from anople_anomalib.data import FewShot

PANDAS_3 = int(pd.__version__.partition(".")[0]) > 2
GOOD, BAD = 3, 2
"""Good and defective test images of every tiny data set; it has four training images."""


def picture(path: Path) -> None:
    """Write noise that depends on the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(list(str(path).encode())).integers(0, 200, (32, 32, 3), np.uint8)).save(path)


def mask(path: Path, value: int = 255) -> None:
    """Write a mask with a square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:8, :8] = value
    Image.fromarray(pixels).save(path)


def write(
    root: Path, names: Sequence[str], masks: Callable[[int], str] | None, validation: str = "", suffix: str = ".png"
) -> Path:
    """Write training, good test and defective test images in three folders, and masks."""
    for name, number in zip(names, (4, GOOD, BAD), strict=True):
        for index in range(number):
            picture(root / name / f"{index:03}{suffix}")
    for index in range(BAD if masks is not None else 0):
        mask(root / masks(index))
    for index in range(2 if validation else 0):
        picture(root / validation / f"{index:03}{suffix}")
    return root


LAYOUT = ("train/good", "test/good", "test/bad")


def autovi(root: Path, **rest: str) -> dict[str, Any]:
    write(root / "engine_wiring", LAYOUT, "ground_truth/bad/{:03}/0000.png".format)
    return {"root": root, "category": "engine_wiring", **rest}


def bmad(root: Path) -> dict[str, Any]:
    folder = root / "Brain"
    write(folder, ("train/good", "test/good/img", "test/Ungood/img"), "test/Ungood/label/{:03}.png".format)
    for index in range(2):
        picture(folder / "valid" / "good" / "img" / f"{index:03}.png")
    picture(folder / "valid" / "Ungood" / "img" / "000.png")
    mask(folder / "valid" / "Ungood" / "label" / "000.png")
    return {"root": root, "category": "Brain"}


def btech(root: Path) -> dict[str, Any]:
    write(root / "01", ("train/ok", "test/ok", "test/ko"), "ground_truth/ko/{:03}.png".format)
    return {"root": root, "category": "01"}


def datumaro(root: Path) -> dict[str, Any]:
    items = []
    for label, number in ((0, 4 + GOOD), (1, BAD)):
        for index in range(number):
            name = f"{label}_{index}.png"
            picture(root / "images" / "default" / name)
            items.append({"id": name, "image": {"path": name}, "annotations": [{"label_id": label}]})
    labels = {"label": {"labels": [{"name": "good"}, {"name": "bad"}]}}
    (root / "annotations").mkdir()
    (root / "annotations" / "default.json").write_text(json.dumps({"categories": labels, "items": items}))
    return {"root": root, "test_split_ratio": 3 / 7, "val_split_mode": "same_as_test"}


def folder(root: Path) -> dict[str, Any]:
    write(root, ("good", "good_test", "bad"), "masks/{:03}.png".format)
    names = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "masks"}
    return {"name": "part", "root": root, **names, "val_split_mode": "same_as_test"}


def kolektor(root: Path) -> dict[str, Any]:
    """Good and defective ones beside each other, four fifths of the good ones for training: of 15 three are tested."""
    for index in range(15 + BAD):
        picture(root / "kos01" / f"Part{index:02}.jpg")
        mask(root / "kos01" / f"Part{index:02}_label.bmp", 255 if index < BAD else 0)
    return {"root": root}


def mvtec(root: Path, category: str = "bottle", **rest: str) -> dict[str, Any]:
    write(root / category, LAYOUT, "ground_truth/bad/{:03}_mask.png".format)
    return {"root": root, "category": category, **rest}


def mvtec_ad_2(root: Path) -> dict[str, Any]:
    for name, number in (
        ("train/good", 4),
        ("validation/good", 2),
        ("test_public/good", GOOD),
        ("test_public/bad", BAD),
    ):
        for index in range(number):
            picture(root / "can" / name / f"{index:03}_regular.png")
    for index in range(BAD):
        mask(root / "can" / "test_public" / "ground_truth" / "bad" / f"{index:03}_regular_mask.png")
    return {"root": root, "category": "can"}


def mvtec_loco(root: Path) -> dict[str, Any]:
    names = ("train/good", "test/good", "test/logical_anomalies")
    write(root / "pushpins", names, "ground_truth/logical_anomalies/{0:03}/000.png".format, "validation/good")
    return {"root": root, "category": "pushpins"}


def real_iad(root: Path) -> dict[str, Any]:
    images = root / "realiad_256" / "audiojack"
    rows: dict[str, Any] = {"meta": {"normal_class": "OK", "prefix": "audiojack/"}, "train": [], "test": []}
    for split, kind, number in (("train", "OK", 4), ("test", "OK", GOOD), ("test", "AK", BAD)):
        for index in range(number):
            name = f"{split}_{kind}_{index}"
            picture(images / f"{name}.jpg")
            if kind == "AK":
                mask(images / f"{name}.png")
            row = {"category": "audiojack", "anomaly_class": kind, "image_path": f"{name}.jpg"}
            rows[split].append({**row, "mask_path": f"{name}.png" if kind == "AK" else None})
    (root / "realiad_jsons" / "realiad_jsons").mkdir(parents=True)
    (root / "realiad_jsons" / "realiad_jsons" / "audiojack.json").write_text(json.dumps(rows))
    return {"root": root, "category": "audiojack", "test_split_mode": "from_dir"}


def tabular(root: Path) -> dict[str, Any]:
    write(root, LAYOUT, "masks/{:03}.png".format)
    rows = [
        {"image_path": f"{name}/{index:03}.png", "label_index": int(name == LAYOUT[2]), "split": name.split("/")[0],
         "mask_path": f"masks/{index:03}.png" if name == LAYOUT[2] else ""}
        for name, number in zip(LAYOUT, (4, GOOD, BAD), strict=True) for index in range(number)
    ]  # fmt: skip
    return {"name": "part", "root": root, "samples": rows, "val_split_mode": "same_as_test"}


def visa(root: Path) -> dict[str, Any]:
    write(root / "visa_pytorch" / "candle", LAYOUT, "ground_truth/bad/{:03}.png".format)
    return {"root": root, "category": "candle"}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "AutoVI": autovi,
    "BMAD": bmad,
    "BTech": btech,
    "Datumaro": datumaro,
    "Folder": folder,
    "Kolektor": kolektor,
    "MPDD": lambda root: mvtec(root, "tubes"),
    "MVTecAD": mvtec,
    "MVTecAD2": mvtec_ad_2,
    "MVTecLOCO": mvtec_loco,
    "RealIAD": real_iad,
    "Tabular": tabular,
    "VAD": lambda root: mvtec(root, "vad"),
    "Visa": visa,
}
NEED_PANDAS_2 = {"MVTecLOCO", "Tabular"} | (set() if find_spec("pyarrow") else {"AutoVI"})  # with pyarrow it is read
NOT_HERE = {"Kaputt": "needs pyarrow"}
"""Datamodules without a tiny data set in these tests."""


def make(name: str, root: Path, **arguments: object) -> AnomalibDataModule:
    return getattr(anomalib.data, name)(**{**WRITERS[name](root), "num_workers": 0, **arguments})


def test_no_datamodule_of_anomalib_is_forgotten() -> None:
    names = [name for name in image_datamodules.__all__ if name[0].isupper() and hasattr(anomalib.data, name)]
    images = {name for name in names if issubclass(getattr(anomalib.data, name), AnomalibDataModule)}
    assert images - {"ADAM_3D"} <= WRITERS.keys() | NOT_HERE.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_good_and_defective_images_are_those_that_are_published(tmp_path: Path, name: str) -> None:
    few = FewShot(make(name, tmp_path), k_shot=2)
    few.prepare_data()
    if PANDAS_3 and name in NEED_PANDAS_2:
        with pytest.raises(ValueError, match=rf"anomalib .*{name}.* with pandas 3.*pip install 'pandas<3'"):
            few.setup()
        return
    few.setup()
    labels = few.test_data.samples.label_index.tolist()
    assert (labels.count(0), labels.count(1)) == (GOOD, BAD)
    assert few.train_data.samples.label_index.tolist() == [0, 0]
    items = [few.test_data[index] for index in range(len(labels))]
    assert [int(item.gt_label) for item in items] == labels
    if name != "Datumaro":  # which has no masks
        assert [int(item.gt_mask.sum()) > 0 for item in items] == [label == 1 for label in labels]
    assert next(iter(few.val_dataloader())).image.shape[1:] == (3, 32, 32)


def test_real_iad_by_its_defaults_is_refused_with_the_argument(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"RealIAD tests on defects alone.*--data.test_split_mode from_dir"):
        FewShot(make("RealIAD", tmp_path, test_split_mode="none")).setup()
