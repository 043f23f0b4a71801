# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The default images of a test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem, PredictDataset
from PIL import Image
from torch.utils.data import DataLoader

from anople_anomalib.deployment.heat_maps import HeatMaps, draw_verdict
from helpers.training import make_datamodule, make_engine, make_model


def test_equal_names_in_different_folders_keep_their_own_images(mvtec: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1, visualizer=HeatMaps(tmp_path / "images"))
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=make_datamodule(mvtec))
    for lot, color in (("A", "red"), ("B", "blue")):
        path = tmp_path / "new" / lot / "cam1" / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (60, 40), color).save(path)
    engine.predict(model, dataset=PredictDataset(tmp_path / "new"))
    files = sorted((tmp_path / "images").rglob("*.png"))
    assert [file.relative_to(tmp_path / "images").as_posix() for file in files] == ["A/cam1/0.png", "B/cam1/0.png"]
    red, blue = (np.asarray(Image.open(file).convert("RGB"))[100, 100] for file in files)
    assert red[0] > 200 > 50 > red[2]
    assert blue[2] > 200 > 50 > blue[0]


def test_frames_of_one_name_that_no_disk_holds_keep_their_own_images(mvtec: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1, visualizer=HeatMaps(tmp_path / "images"))
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=make_datamodule(mvtec))
    frames = [torch.zeros(3, 60, 40) for _ in range(4)]
    for frame, channel in zip(frames, (0, 1, 2), strict=False):
        frame[channel] = 1
    paths = ["cam1/frame.png", "cam2/frame.png", "cam2/frame.png", "frame.jpg"]
    items = [ImageItem(image=frame, image_path=path) for frame, path in zip(frames, paths, strict=True)]
    engine.predict(model, dataloaders=DataLoader(items, batch_size=2, collate_fn=ImageBatch.collate))
    names = ["frame.png", "frame_2.png", "frame_3.png"]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == sorted([*names, "frame.jpg.png"])
    for channel, name in enumerate(names):
        assert np.asarray(Image.open(tmp_path / "images" / name).convert("RGB"))[100, 100].argmax() == channel


@pytest.mark.parametrize("subset", ["good", "hole"])
def test_a_test_draws_every_image_below_its_folder(mvtec: Path, tmp_path: Path, subset: str) -> None:
    model = make_model(epochs=1, visualizer=HeatMaps(tmp_path / "images"))
    make_engine(tmp_path).train(model, datamodule=make_datamodule(mvtec))
    tested = sorted(path.name for path in (mvtec / "bottle" / "test" / subset).iterdir())
    assert tested == sorted(path.name for path in (tmp_path / "images" / subset).iterdir())
    with Image.open(next((tmp_path / "images" / subset).iterdir())) as image:
        assert image.width == 4 * 256  # image, ground truth, heat map, above the threshold
        assert np.asarray(image.convert("L"))[:20].min() < 100  # the titles stand above, on white
        assert np.median(np.asarray(image.convert("L"))[:20]) == 255


def test_the_part_that_was_judged_is_drawn_whatever_its_file_holds_by_now(mvtec: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1, visualizer=HeatMaps(tmp_path / "images"))
    make_engine(tmp_path).fit(model, datamodule=make_datamodule(mvtec))
    file = tmp_path / "latest.png"
    Image.new("RGB", (200, 300), (90, 90, 90)).save(file)
    dataset = PredictDataset(file)

    def read_then_overwritten(items: list[ImageItem]) -> ImageBatch:
        batch = ImageBatch.collate(items)
        Image.new("RGB", (400, 300), (255, 0, 0)).save(file)
        return batch

    model.post_processor.set_thresholds(pixel=1e-6)  # everything is marked
    engine = make_engine(tmp_path / "run")
    engine.predict(model, dataloaders=DataLoader(dataset, collate_fn=read_then_overwritten))
    shown = np.asarray(Image.open(tmp_path / "images" / "latest.png").convert("RGB"))[40:200, 10:150]
    assert np.abs(shown.astype(int) - 90).max() < 5
    table = next((tmp_path / "run").rglob("predictions.csv")).read_text()
    assert '""box"": [0, 0, 200, 300]' in table  # of the file that was judged


def test_what_there_is_is_drawn_side_by_side() -> None:
    item = ImageItem(image=torch.rand(3, 20, 30), anomaly_map=torch.rand(20, 30), pred_score=torch.tensor(0.2))
    assert draw_verdict(item, item.image).width == 2 * 256
