# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles and regions through anomalib's engine: training, checkpoint, test and predict are of one mind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch, PredictDataset
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data.image_series import ImageList
from anople_anomalib.deployment.table import ERROR, rows_of
from anople_anomalib.tiles.tiling import Tiling
from helpers.training import make_engine, make_model

SIZE = (220, 300)  # height and width
QUIET = {"fusion": "paper", "epochs": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Grainy images, and defective ones with a small bright square on the right."""
    rng = np.random.default_rng(0)
    for name in ("good/0", "good/1", "good/2", "bad/0", "bad/1"):
        image = rng.integers(90, 140, (*SIZE, 3), dtype=np.uint8)
        mask = np.zeros(SIZE, np.uint8)
        if name.startswith("bad"):
            image[100:115, 250:265], mask[100:115, 250:265] = 255, 255
            (tmp_path / "mask").mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "mask" / f"{name[-1]}.png")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return tmp_path


def data(folder: Path) -> Folder:
    """The folder as a datamodule whose batches hold two images."""
    return Folder(
        name="parts", root=folder, normal_dir="good", abnormal_dir="bad", mask_dir="mask", num_workers=0,
        eval_batch_size=2, val_split_mode="same_as_test", test_split_ratio=0.34, seed=0,
    )  # fmt: skip


def predictions(model: AnoPLe, folder: Path, checkpoint: Path | None = None) -> list[tuple[float, torch.Tensor]]:
    batches = make_engine(folder).predict(model, dataset=PredictDataset(folder / "bad"), ckpt_path=checkpoint)
    return [(float(b.pred_score), b.anomaly_map[0].float()) for b in batches or []]


@pytest.mark.parametrize(
    "arguments", [{}, {"memory": {"backbone": "efficientnet-lite0", "subspace": 0.95, "fusion": "weighted"}}]
)
def test_the_shots_fix_the_tiles_for_all_that_follows(folder: Path, arguments: dict) -> None:
    arguments = {**QUIET, "image_size": 64, **arguments}
    model, engine = make_model(tiles="auto", **arguments), make_engine(folder)
    engine.fit(model, datamodule=data(folder))
    assert model.model.tiling == Tiling(2, 3)
    assert model.model.memory_bank is not None
    assert len(model.model.memory_bank) == 6 * 16
    expected = predictions(model, folder)
    assert expected[0][1].shape[-2:] == model.input_size

    checkpoint = folder / "tiled.ckpt"
    model.save_checkpoint(checkpoint)
    fresh = make_model(**arguments)  # knows of no tiles before the checkpoint, which the data were set up for
    seen: dict[str, torch.Tensor] = {}
    original = fresh.test_step

    def record(batch: ImageBatch, *args: int) -> ImageBatch:
        outputs = original(batch, *args)
        seen.update(zip(map(_name, batch.image_path or []), outputs.anomaly_map.clone(), strict=True))
        return outputs

    fresh.test_step = record
    make_engine(folder).test(fresh, datamodule=data(folder), ckpt_path=checkpoint)
    for name in ("bad/0.png", "bad/1.png"):
        with torch.no_grad():
            raw = model.model(model.pre_processor(_read(folder / name))).anomaly_map[0]
        assert_close(seen[name].reshape(raw.shape), raw, atol=1e-5, rtol=1e-4)
    for (score, anomaly_map), (other_score, other_map) in zip(
        predictions(AnoPLe.load_from_checkpoint(checkpoint, visualizer=False), folder), expected, strict=True
    ):
        assert score == pytest.approx(other_score, abs=1e-5)
        assert_close(anomaly_map, other_map, atol=1e-5, rtol=1e-4)


def _name(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def _read(path: Path) -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0) / 255


def test_other_tiles_than_those_of_the_checkpoint_are_refused(folder: Path) -> None:
    model = make_model(tiles=[1, 2], **QUIET)
    make_engine(folder).fit(model, datamodule=data(folder))
    model.save_checkpoint(folder / "tiled.ckpt")
    with pytest.raises(ValueError, match=r"trained with tiles \[1, 2\], this model has \[2, 2\]"):
        predictions(make_model(tiles=[2, 2], **QUIET), folder, folder / "tiled.ckpt")


@pytest.mark.parametrize("kind", ["polygon", "mask", "folder"])
def test_a_defect_outside_of_the_region_is_none(folder: Path, kind: str) -> None:
    left = np.zeros(SIZE, bool)
    left[:, :200] = True
    for name in ("left.png", "regions/0.png", "regions/1.png", "regions/2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(left).save(folder / name)
    roi = {
        "polygon": [[0, 0], [2 / 3, 0], [2 / 3, 1], [0, 1]],
        "mask": folder / "left.png",
        "folder": folder / "regions",
    }
    model, engine = make_model(tiles=[1, 2], roi=roi[kind], **QUIET), make_engine(folder)
    engine.fit(model, datamodule=data(folder))
    batches = engine.predict(model, datamodule=data(folder)) or []
    assert not any(label for batch in batches for label in batch.gt_label)
    assert not any(batch.gt_mask.any() for batch in batches)
    model.save_checkpoint(folder / "region.ckpt")
    before = predictions(AnoPLe.load_from_checkpoint(folder / "region.ckpt", visualizer=False), folder)
    for path in (folder / "bad").iterdir():
        image = np.asarray(Image.open(path)).copy()
        image[:, 215:] = 0  # farther than the reach of the resizing
        Image.fromarray(image).save(path)
    for (score, anomaly_map), (other, other_map) in zip(predictions(model, folder), before, strict=True):
        assert score == other
        assert torch.equal(anomaly_map, other_map)
    if kind == "folder":
        with pytest.raises(ValueError, match=r"a region of interest per image .* exported model"):
            model.detector()
    else:
        images = model.pre_processor.transform(_read(folder / "bad/0.png"))
        raw, detector = model.model(images), model.detector()
        detector.post_processor = None
        assert_close(detector(_read(folder / "bad/0.png")).anomaly_map, raw.anomaly_map, atol=1e-5, rtol=1e-4)


def test_a_wrong_mask_is_refused_before_the_training(folder: Path) -> None:
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / "small.png")
    for roi, message in (
        (folder / "small.png", "has 9x9 pixels, the image"),
        (folder / "none.png", "There is no mask"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            make_engine(folder).fit(make_model(roi=folder / roi, **QUIET), datamodule=data(folder))


@pytest.mark.parametrize("kind", ["polygon", "mask", "folder"])
def test_a_turned_image_is_not_judged_by_a_stretched_region(folder: Path, kind: str) -> None:
    inside = np.zeros(SIZE, bool)
    inside[:, :200] = True
    for name in ("left.png", *(f"regions/{number}.png" for number in range(3))):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(inside).save(folder / name)
    roi = {"polygon": [[0, 0], [0.6, 0], [0.6, 1]], "mask": folder / "left.png", "folder": folder / "regions"}
    model, message = make_model(roi=roi[kind], **QUIET), "has 220x300 pixels"
    make_engine(folder).fit(model, datamodule=data(folder))
    model.save_checkpoint(folder / "region.ckpt")
    loaded = AnoPLe.load_from_checkpoint(folder / "region.ckpt", visualizer=False)
    upright = Image.open(folder / "good" / "0.png")
    (folder / "new").mkdir()
    upright.save(folder / "new" / "0.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "new" / "1.png")
    make_engine(folder / "judged").predict(loaded, dataloaders=[ImageList([folder / "new"])])
    rows = rows_of(next((folder / "judged").rglob("predictions.jsonl")))
    assert [row["verdict"] == ERROR for row in sorted(rows, key=lambda row: row["path"])] == [False, True]
    assert message in " ".join(row["error"] for row in rows) or kind == "folder"
    with pytest.raises(ValueError, match="pixels"):
        make_engine(folder).predict(loaded, dataset=PredictDataset(folder / "new"))
    if kind != "folder":
        with pytest.raises(ValueError, match=message):
            loaded.recompute_thresholds(folder / "new" / "1.png")
        frame = DataLoader([torch.rand(3, 300, 220)], collate_fn=lambda b: ImageBatch(image=torch.stack(b)))
        with pytest.raises(ValueError, match=message):
            make_engine(folder).predict(loaded, dataloaders=frame)
    (folder / "new" / "1.png").replace(folder / "good" / "2.png")
    with pytest.raises(ValueError, match="pixels"):  # before the training, not after it
        make_engine(folder).fit(make_model(roi=roi[kind], k_shot=2, **QUIET), datamodule=data(folder))
