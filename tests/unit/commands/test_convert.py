# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command that makes plain images of a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anople_anomalib.commands.convert import convert_images
from anople_anomalib.commands.main import main
from anople_anomalib.data.image_reading import distortion

GRAY = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(64, 0)


def save(pixels: np.ndarray, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data set with odd images, a mask of 16 bits, a hidden file and a text."""
    source = tmp_path / "part"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(GRAY.astype(np.uint16) * 257, source / "train/good/deep.png")
    save(np.rot90(GRAY).copy(), source / "train/good/turned.jpg", exif=exif, quality=95)
    save(np.stack([GRAY] * 3, -1), source / "test/bad/plain.png")
    save((GRAY > 200).astype(np.uint16), source / "ground_truth/bad/plain_mask.png")
    save(GRAY, source / "train/good/._deep.png")
    Image.fromarray(np.stack([GRAY] * 3, -1)).convert("CMYK").save(source / "test/bad/cmyk.tiff")
    (source / "notes.txt").write_text("no image")
    return source


def test_every_image_is_plain_afterwards_and_where_it_was(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert convert_images(source, tmp_path / "new") == 5
    converted = {path.relative_to(tmp_path / "new").as_posix(): path for path in (tmp_path / "new").rglob("*.*")}
    assert set(converted) == {
        "train/good/deep.png",
        "train/good/turned.png",
        "test/bad/plain.png",
        "test/bad/cmyk.png",
        "ground_truth/bad/plain_mask.png",
    }
    assert all(distortion(path) is None for path in converted.values())
    for name in ("train/good/deep.png", "train/good/turned.png", "test/bad/plain.png"):
        pixels = np.asarray(Image.open(converted[name]).convert("L")).astype(int)
        assert np.abs(pixels - GRAY).max() <= (4 if "turned" in name else 0)
    mask = np.asarray(Image.open(converted["ground_truth/bad/plain_mask.png"]))
    assert np.array_equal(mask > 0, GRAY > 200)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_twelve_bits_need_a_white(source: Path, tmp_path: Path) -> None:
    save(GRAY.astype(np.uint16) * 16, source / "train/good/deep.png")
    with pytest.raises(ValueError, match=r"largest value in images of 16 bits is 4080 .*--white 4095 for a camera"):
        convert_images(source, tmp_path / "new")
    convert_images(source, tmp_path / "new", white=4095)
    pixels = np.asarray(Image.open(tmp_path / "new/train/good/deep.png")).astype(int)
    assert np.abs(pixels - GRAY).max() <= 1


def test_nothing_is_overwritten_and_nothing_half_done(source: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(FileExistsError, match="new' exists already"):
        convert_images(source, tmp_path / "new")
    save(GRAY, source / "train/good/deep.jpg")
    with pytest.raises(FileExistsError, match=r"deep.jpg' and '.*deep.png' would both become 'train.good.deep.png'"):
        convert_images(source, tmp_path / "other")
    (source / "train/good/deep.jpg").unlink()
    (source / "train/good/broken.png").write_bytes((source / "train/good/deep.png").read_bytes()[:80])
    with pytest.raises(ValueError, match=r"broken.png' cannot be read"):
        convert_images(source, tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"part", "new"}


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(source), str(tmp_path / "new"), "--white", "65535"]) == 0
    assert capsys.readouterr().out == "5 images were converted.\n"
    for place, message in ((source, "exists already"), (tmp_path / "nowhere", "nowhere' is no folder with images")):
        assert main(["convert", str(place), str(tmp_path / "new")]) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
