# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Odd images give right results, or one error message that names the file."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import Folder, PredictDataset
from anomalib.data.utils import image as image_module
from anomalib.data.utils import read_image
from anomalib.models import Padim
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from PIL import Image
from torch.utils.data import DataLoader

from anople_anomalib import AnoPLe
from anople_anomalib.data import FewShot
from anople_anomalib.data.image_reading import distortion, open_image, require_plain_images
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


def of_pages(*, smaller: bool = False) -> Callable[[Path], None]:
    """A file of two pictures; the second may be a smaller one of the first, as cameras add it."""

    def write(path: Path) -> None:
        """Write it."""
        first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
        if smaller and path.suffix == ".tiff":
            second = second.resize((24, 16))
            second.encoderinfo = {"tiffinfo": {254: 1}}
        kind = "MPO" if path.suffix == ".jpg" else None
        first.save(path, kind, save_all=True, append_images=[second])

    return write


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
    "rotated.png": rotated(RGB),
    "plain.jpeg": saved(RGB),
    "one page.webp": saved(RGB, lossless=True),
    "with a thumbnail.tiff": of_pages(smaller=True),
    "with its depth.jpg": of_pages(smaller=True),
    "with spaces, ünïcödé and 瓶.png": saved(RGB),
}
DISTORTED = {
    "16 bits.png": "more than 8 bits",
    "16 bits.tiff": "more than 8 bits",
    "32 bits.tiff": "more than 8 bits",
    "float.tiff": "more than 8 bits",
    "rotated.jpg": "EXIF",
    "rotated.png": "EXIF",
}
"""What anomalib's readers would show differently."""
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
    **{f"pages.{ending}": of_pages() for ending in ("tiff", "gif", "png", "webp")},
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


@pytest.mark.parametrize("name", GOOD)
def test_what_anomalib_reads_differently_is_known_from_the_head_of_a_file(tmp_path: Path, name: str) -> None:
    GOOD[name](tmp_path / name)
    as_anomalib = (read_image(tmp_path / name) * 255).round().astype(np.uint8)
    reason = distortion(tmp_path / name)
    assert (reason is None) == np.array_equal(as_anomalib, np.asarray(open_image(tmp_path / name).convert("RGB")))
    assert (reason is None) == (name not in DISTORTED)
    assert DISTORTED.get(name, "") in (reason or "")


def test_exif_data_behind_the_pixels_count(tmp_path: Path) -> None:
    rotated(RGB)(tmp_path / "before.png")
    content = (tmp_path / "before.png").read_bytes()
    start, end = content.index(b"eXIf") - 4, content.index(b"IEND") - 4
    length = 12 + int.from_bytes(content[start : start + 4], "big")
    moved = content[:start] + content[start + length : end] + content[start : start + length] + content[end:]
    (tmp_path / "after.png").write_bytes(moved)
    assert "EXIF" in (distortion(tmp_path / "after.png") or "")


def test_the_message_names_file_count_and_command(tmp_path: Path) -> None:
    for name in ("16 bits.png", "rgb.png", "rotated.jpg"):
        (tmp_path / "my part").mkdir(exist_ok=True)
        GOOD[name](tmp_path / "my part" / name)
    folder = tmp_path / "my part"
    with pytest.raises(ValueError, match=r"16 bits\.png' has more than 8 bits.* one of 2 such images of 3") as error:
        require_plain_images(sorted(folder.iterdir()))
    assert str(error.value).endswith(f": anople convert '{folder}' '{folder}_8bit'")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder of one's own with odd images only, for shots and for tests."""
    for split in ("good", "bad"):
        (tmp_path / split).mkdir()
        for name, write in {**GOOD, **ODD_SIZES}.items():
            if name not in DISTORTED:
                write(tmp_path / split / name)
    (tmp_path / "good" / "1x1.png").unlink()  # a mirrored pixel is a copy of itself
    for path in (tmp_path / "good").iterdir():  # shots that are tested are refused: these are light on the left
        image = Image.open(path)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    (tmp_path / "fine").mkdir()
    for number in range(2):
        Image.fromarray(np.roll(NOISE, 50 * number, axis=0)).save(tmp_path / "fine" / f"{number}.png")
    return Folder(
        seed=0,
        name="odd",
        root=tmp_path,
        normal_dir="good",
        abnormal_dir="bad",
        normal_test_dir="fine",
        num_workers=2,
        val_split_mode="same_as_test",
    )


def test_odd_images_are_shots_and_tested_and_predicted(folder: Folder, tmp_path: Path) -> None:
    model = make_model(
        k_shot=None, epochs=1, multi_view=False, post_processor=PostProcessor(enable_normalization=False)
    )
    engine = make_engine(tmp_path)
    results = engine.train(model, datamodule=folder)
    assert len(model.drawn_samples["odd"]) > 3
    assert 0 <= results[0]["image_AUROC"] <= 1
    predictions = engine.predict(model, data_path=tmp_path / "bad")
    scores = {Path(batch.image_path[0]).name: batch.pred_score.item() for batch in predictions}
    assert scores.keys() == (GOOD.keys() | ODD_SIZES.keys()) - DISTORTED.keys()
    assert all(0 <= score <= 1 for score in scores.values())
    alike = [scores[name] for name in ("gray.png", "rgba.png", "rgb.png")]
    assert max(alike) - min(alike) < 0.01
    maps = {Path(batch.image_path[0]).name: batch.anomaly_map for batch in predictions}
    assert all(0 <= each.min() <= each.max() <= 1 for each in maps.values())


@pytest.mark.parametrize(("name", "num_workers"), [("truncated.png", 0), ("empty.png", 1)])
def test_a_broken_image_stops_a_run_and_is_named(folder: Folder, tmp_path: Path, name: str, num_workers: int) -> None:
    for path in (tmp_path / "good").iterdir():
        path.unlink()
    BAD[name](tmp_path / "good" / name)
    Image.fromarray(np.roll(NOISE, 30, axis=1)).save(tmp_path / "good" / "fine.png")
    folder.num_workers = num_workers
    with pytest.raises(ValueError, match=f"The image '.*{name}' cannot be read"):
        make_engine(tmp_path).fit(make_model(k_shot=None, epochs=1), datamodule=folder)


MODELS = [
    lambda: make_model(epochs=1),
    lambda: Padim(backbone="resnet18", pre_trained=False, layers=["layer1"], n_features=10),
]


@pytest.mark.parametrize("where", ["good", "bad"])
@pytest.mark.parametrize("name", ["16 bits.png", "rotated.jpg"])
@pytest.mark.parametrize("make", MODELS, ids=["AnoPLe", "Padim"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_distorted_images_are_refused_before_training(
    folder: Folder, tmp_path: Path, make: Callable[[], AnomalibModule], name: str, where: str, num_workers: int
) -> None:
    GOOD[name](tmp_path / where / name)
    data, model = FewShot(folder, k_shot=None, num_workers=num_workers), make()
    with pytest.raises(ValueError, match=f"{name}' .*one of 1 such images.*anople convert"):
        make_engine(tmp_path).train(model, datamodule=data)
    if isinstance(model, AnoPLe):
        with pytest.raises(ValueError, match=f"{name}' .*one of 1 such images.*anople convert"):
            make_engine(tmp_path).train(model, datamodule=folder)
        assert not model.is_finalized


def test_distorted_images_are_not_predicted(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    GOOD["16 bits.png"](tmp_path / "new" / "x.png")
    model = make_model(epochs=1)
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=folder)
    dataset = PredictDataset(tmp_path / "new")
    loader = DataLoader(dataset, collate_fn=dataset.collate_fn)
    for source in ({"data_path": tmp_path / "new"}, {"dataset": dataset}, {"dataloaders": loader}):
        with pytest.raises(ValueError, match=r"x\.png' has more than 8 bits.*anople convert"):
            engine.predict(model, **source)
    model.extend_memory_bank(tmp_path / "new")  # which this package reads, with all its bits


def test_anomalib_is_left_alone(folder: Folder, tmp_path: Path) -> None:
    model = make_model(epochs=1)
    seen = []
    model.model.register_forward_hook(lambda *_: seen.append(image_module.Image))
    make_engine(tmp_path).fit(model, datamodule=folder)
    assert seen
    assert all(module is Image for module in seen)


@pytest.mark.parametrize("white", [0.0, -5.0])
def test_white_is_above_zero(tmp_path: Path, white: float) -> None:
    Image.fromarray(np.full((4, 5), 900, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=f"--white must be above 0, got {white:g}"):
        open_image(tmp_path / "deep.png", white)
