# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Odd images give right results, or one error message that names the file."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, PredictDataset
from anomalib.data.utils import read_image, read_mask
from anomalib.post_processing import PostProcessor
from PIL import Image
from torch.utils.data import DataLoader

from anople_anomalib.data.image_reading import open_image, read_carefully, restore_reading
from helpers.training import make_engine, make_model

GRAY = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(64, 0)  # dark on the left, light on the right
RGB = np.stack([GRAY] * 3, axis=-1)
RGBA = np.dstack([RGB, np.full_like(GRAY, 128)])


def saved(pixels: np.ndarray, mode: str | None = None, **options: object) -> Callable[[Path], None]:
    """Function that writes the pixels to a path, in another mode if one is given."""
    image = Image.fromarray(pixels)
    return functools.partial(image.convert(mode or image.mode).save, **options)


def rotated(pixels: np.ndarray) -> Callable[[Path], None]:
    """A camera's image: its pixels lie on their side, and EXIF says how to turn them."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    return saved(np.rot90(pixels).copy(), exif=exif)


GOOD = {
    "gray.png": saved(GRAY),
    "rgb.png": saved(RGB),
    "rgba.png": saved(RGBA),
    "gray and alpha.png": saved(GRAY, "LA"),
    "palette.png": lambda path: Image.fromarray(RGB).quantize(256).save(path),
    "16 bits.png": saved(GRAY.astype(np.uint16) * 257),
    "16 bits.tiff": saved(GRAY.astype(np.uint16) * 257),
    "32 bits.tiff": saved(GRAY.astype(np.int32) * 257),
    "float.tiff": saved(GRAY.astype(np.float32) / 255),
    "cmyk.jpg": saved(RGB, "CMYK"),
    "rotated.jpg": rotated(RGB),
    "plain.jpeg": saved(RGB),
    "with spaces, ünïcödé and 瓶.png": saved(RGB),
}
ODD_SIZES = {
    "1x1.png": saved(RGB[:1, 40:41]),
    "5000x200.png": lambda path: Image.fromarray(RGB).resize((5000, 200)).save(path),
    "200x5000.png": lambda path: Image.fromarray(RGB).resize((200, 5000)).save(path),
}
NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)


def truncated(path: Path) -> None:
    Image.fromarray(NOISE).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD = {
    "truncated.png": truncated,
    "truncated.jpg": truncated,
    "truncated.bmp": truncated,
    "empty.png": Path.touch,
    "text.png": lambda path: path.write_text("no image"),
    "negative.tiff": saved(GRAY.astype(np.int32) - 300),
    "32 bits.tiff": saved(GRAY.astype(np.int32) * 2**20),
    "float of 255.tiff": saved(GRAY.astype(np.float32)),
    "nan.tiff": saved(np.full((9, 9), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_image_shows_the_same(tmp_path: Path, name: str) -> None:
    GOOD[name](tmp_path / name)
    pixels = np.asarray(open_image(tmp_path / name).convert("RGB"))
    assert pixels.shape == RGB.shape
    assert np.abs(pixels.astype(int) - RGB).max() <= 4  # JPEG is near
    if not name.endswith(("jpg", "jpeg")):
        assert np.abs(pixels.astype(int) - RGB).max() <= 1


def test_the_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    GOOD["plain.jpeg"](tmp_path / "plain.jpeg")
    (tmp_path / "plain.jpeg").rename(tmp_path / "plain.png")
    assert open_image(tmp_path / "plain.png").size == (96, 64)


@pytest.mark.parametrize("name", BAD)
def test_a_broken_image_is_named_in_the_error(tmp_path: Path, name: str) -> None:
    BAD[name](tmp_path / name)
    with pytest.raises(ValueError, match=rf"^The image '.*{name}' cannot be read \(.*\): repair or remove it\.$"):
        open_image(tmp_path / name)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        open_image(tmp_path / "missing.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("value", [1, 255])
def test_the_smallest_values_of_a_mask_count(tmp_path: Path, dtype: type, value: int) -> None:
    mask = np.zeros((5, 7), dtype)
    mask[2, 3] = value
    Image.fromarray(mask).save(tmp_path / "mask.tiff")
    read_carefully()
    try:
        assert read_mask(tmp_path / "mask.tiff", as_tensor=True).nonzero().tolist() == [[2, 3]]
    finally:
        restore_reading()


def test_anomalib_reads_plain_images_the_same_and_is_left_as_it_was(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "noise.png")
    GOOD["16 bits.png"](tmp_path / "16 bits.png")
    before = [read_image(path, as_tensor=True) for path in sorted(tmp_path.iterdir())]
    for _ in range(2):
        read_carefully()
    careful = [read_image(path, as_tensor=True) for path in sorted(tmp_path.iterdir())]
    for _ in range(2):
        restore_reading()
    after = [read_image(path, as_tensor=True) for path in sorted(tmp_path.iterdir())]
    assert torch.equal(careful[1], before[1])
    assert careful[0].mean() < 0.6 < 0.95 < before[0].mean()  # cut off at 255, nearly all is white
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder of one's own with odd images only, for shots and for tests."""
    for split in ("good", "bad"):
        (tmp_path / split).mkdir()
        for name, write in {**GOOD, **ODD_SIZES}.items():
            write(tmp_path / split / name)
    return Folder(
        name="odd", root=tmp_path, normal_dir="good", abnormal_dir="bad", num_workers=2, val_split_mode="same_as_test"
    )


def test_odd_images_are_shots_and_tested_and_predicted(folder: Folder, tmp_path: Path) -> None:
    model = make_model(
        k_shot=None, epochs=1, multi_view=False, post_processor=PostProcessor(enable_normalization=False)
    )
    engine = make_engine(tmp_path)
    results = engine.train(model, datamodule=folder)
    assert len(model.drawn_samples["odd"]) > len(GOOD) / 2
    assert 0 <= results[0]["image_AUROC"] <= 1
    predictions = engine.predict(model, data_path=tmp_path / "bad")
    scores = {Path(batch.image_path[0]).name: batch.pred_score.item() for batch in predictions}
    assert scores.keys() == GOOD.keys() | ODD_SIZES.keys()
    assert all(0 <= score <= 1 for score in scores.values())
    alike = [scores[name] for name in ("gray.png", "rgba.png", "16 bits.png", "float.tiff", "32 bits.tiff")]
    assert max(alike) - min(alike) < 0.01
    maps = {Path(batch.image_path[0]).name: batch.anomaly_map for batch in predictions}
    assert all(0 <= each.min() <= each.max() <= 1 for each in maps.values())


@pytest.mark.parametrize(("name", "num_workers"), [("truncated.png", 0), ("empty.png", 1)])
def test_a_broken_image_stops_a_run_and_is_named(folder: Folder, tmp_path: Path, name: str, num_workers: int) -> None:
    for path in (tmp_path / "good").iterdir():
        path.unlink()
    BAD[name](tmp_path / "good" / name)
    GOOD["rgb.png"](tmp_path / "good" / "fine.png")
    folder.num_workers = num_workers
    with pytest.raises(ValueError, match=f"The image '.*{name}' cannot be read"):
        make_engine(tmp_path).fit(make_model(k_shot=None, epochs=1), datamodule=folder)
    model = make_model()
    model.model.is_fitted.fill_(value=True)
    dataset = PredictDataset(tmp_path / "good" / name)
    loader = DataLoader(dataset, collate_fn=dataset.collate_fn, num_workers=num_workers)
    with pytest.raises(ValueError, match=f"The image '.*{name}' cannot be read"):
        make_engine(tmp_path).predict(model, dataloaders=loader)
    with pytest.raises(OSError, match="image"):
        read_image(tmp_path / "good" / name)  # anomalib's own way again, although both runs failed
