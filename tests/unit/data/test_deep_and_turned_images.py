# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images of many bits, of odd formats, or on their side show what was written, whichever libraries read them."""

import base64
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from anople_anomalib.data.image_reading import (
    distortion,
    image_digest,
    open_image,
    read_image,
    require_clear_white,
    turned_size,
)
from anople_anomalib.data.image_series import ImageList
from anople_anomalib.data.masks import binary_mask
from anople_anomalib.data.parts import Parts
from anople_anomalib.deployment.exported import read_pixels

RNG = np.random.default_rng(0)
GRAY = (np.arange(16).reshape(4, 4) * 273).astype(np.uint16)  # 12 bits
COLOR = np.stack([GRAY, GRAY[::-1], 4095 - GRAY], axis=-1)
JPEG_2000 = {
    "gray": (
        "|4;u>04V?f0000400004000000000000004000040000000000009dD0sm3}3;+NC0RR951ONg5TmS?>VE<$QB>(|Ka%Ew3Wn>^?c_2@4Wo}APMMofZ"
        "WpZ<AZ*CwmE;TMR|BwI*0000004o3i|C8U~Xc8JZZlQwK`XsUCef^OW*Z^vVg}zwL(Eoq`*#"
    ),
    "color": (
        "|4;u>051Rl000040000400000000000000400004000000000000RpF0Sf^E3jqQDQUDA90003200aa80smY81VCW_WB?@q0Yh?SVRU6=AYyqSPjF>!"
        "N>D{dAa-SPb7^mGATlmBE;Rp;015yA0001300IA#&*WeMT3_q5=TCkf*;Lj;t>^fSzLcz}u3^8&>?RZtM@W%}@4}q`WJ1!B{WVl;kKf=}5rfL@iYA-Th"
        "9lw&{fR%vv`#64Q$PRN"
    ),
    "signed": (
        "|4;u>04V?f000040000400000000000000400004000000000000EBy0sm3}3;+NC0RR951ONg5TmS?>fd6CwB>(|Ka%Ew3Wn>^?c_2@4Wo}APMMofZ"
        "WpZ<AZ*CwmE;TMR|BwI*0000004o3i|C7P~20$c7+#w`S4?Z5Lpk1;Hc4N1qh+DgSv74d)*#"
    ),
}
"""Codestreams of 4 x 4 pixels: 12 bits in gray and in color, and values with a sign."""


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF says of pixels as they are stored."""
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }
    return turned[orientation]


def in_eight_bits(values: np.ndarray, white: float) -> np.ndarray:
    eight = np.ceil(values.astype(np.float64) * 255 / white).astype(np.uint8)
    return eight if eight.ndim == 3 else np.stack([eight] * 3, axis=-1)


def seen(path: Path, white: float | None = None) -> np.ndarray:
    return np.asarray(open_image(path, white).convert("RGB"))


def as_stored(content: np.ndarray, _flags: int) -> np.ndarray:
    """An OpenCV that leaves TIFF files as they are stored."""
    values = tifffile.imread(io.BytesIO(content.tobytes()))
    return values[..., ::-1] if values.ndim == 3 else values


@pytest.mark.parametrize("opencv_turns", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["gray 8", "color 8", "gray 16", "color 16", "gray float"])
def test_turned_tiff_files_are_upright_whatever_opencv_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, compression: str | None, opencv_turns: bool
) -> None:
    if not opencv_turns:
        monkeypatch.setattr(cv2, "imdecode", as_stored)
    color, values = kind.startswith("color"), RNG.random((5, 7, 3) if kind.startswith("color") else (5, 7))
    white = 1.0 if kind.endswith("float") else 2.0 ** int(kind.split()[1]) - 1
    stored = (
        values.astype(np.float32) if white == 1 else (values * white).astype(np.uint8 if white < 256 else np.uint16)
    )
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.tiff"
        tags = [(0x0112, "H", 1, orientation, True)]
        photometric = "rgb" if color else "minisblack"
        tifffile.imwrite(path, stored, photometric=photometric, compression=compression, extratags=tags)
        expected = upright(stored, orientation)
        assert np.array_equal(seen(path), in_eight_bits(expected, white)), orientation
        assert turned_size(path) == expected.shape[1::-1]
        assert (distortion(path) is None) == (orientation == 1 and white == 255)
        if white == 255 or not color:
            assert np.array_equal(read_pixels(path), seen(path))


def test_a_turned_png_of_16_bits_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GRAY * 16).save(tmp_path / "turned.png", exif=exif)
    expected = in_eight_bits(upright(GRAY * 16, 6), 65535)
    assert np.array_equal(seen(tmp_path / "turned.png"), expected)
    assert np.array_equal(read_pixels(tmp_path / "turned.png"), expected)


def test_the_runtime_reads_deep_images_right_or_not_at_all(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "dark.png")
    cv2.imwrite(str(tmp_path / "color.png"), COLOR * 16)
    (tmp_path / "gray.pgm").write_bytes(b"P5\n4 4\n4095\n" + GRAY.astype(">u2").tobytes())
    for name, words in (("dark.png", ", and uses 12 of them"), ("color.png", ""), ("gray.pgm", "")):
        with pytest.raises(ValueError, match=f"more than 8 bits per channel{words}: convert it by anople convert"):
            read_pixels(tmp_path / name)


@pytest.mark.parametrize("largest", [1, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("suffix", [".ppm", ".png"])
def test_the_head_of_a_pnm_file_says_what_is_white(tmp_path: Path, largest: int, color: bool, suffix: str) -> None:
    values = RNG.integers(0, largest + 1, (4, 5, 3) if color else (4, 5))
    path = tmp_path / f"image{suffix}"
    content = values.astype(">u2" if largest > 255 else np.uint8).tobytes()
    path.write_bytes(f"P{6 if color else 5}\n5 4\n{largest}\n".encode() + content)
    assert np.abs(seen(path).astype(int) - in_eight_bits(values, largest)).max() <= (largest < 255)
    assert (distortion(path) is None) == (largest <= 255)
    if largest == 65535:
        dark = (values // 16).astype(">u2").tobytes()  # of a camera of 12 bits
        path.write_bytes(f"P{6 if color else 5}\n5 4\n{largest}\n".encode() + dark)
        assert np.array_equal(seen(path, 4095), in_eight_bits(values // 16, 4095))
        with pytest.raises(ValueError, match="--white 4095 for a camera of 12 bits"):
            require_clear_white([path])


@pytest.mark.parametrize("kind", ["gray", "color"])
def test_jpeg_2000_of_12_bits_is_as_bright_as_it_was(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.j2k"
    path.write_bytes(base64.b85decode(JPEG_2000[kind]))
    expected = in_eight_bits(GRAY if kind == "gray" else COLOR, 4095)
    assert np.array_equal(seen(path), expected)
    require_clear_white([path])
    assert "more than 8 bits" in (distortion(path) or "")
    with pytest.raises(ValueError, match="more than 8 bits per channel: convert it by anople convert"):
        read_pixels(path)


def tiff(path: Path, values: np.ndarray, photometric: str = "minisblack", **options: object) -> None:
    tifffile.imwrite(path, values, photometric=photometric, **options)


MISREAD = {
    "planar.tiff": lambda path: tiff(path, np.moveaxis(COLOR, -1, 0), "rgb", planarconfig="separate"),
    "planar, compressed.tiff": lambda path: tiff(
        path, np.moveaxis(COLOR, -1, 0), "rgb", planarconfig="separate", compression="zlib"
    ),
    "white is 0.tiff": lambda path: tiff(path, GRAY, "miniswhite"),
    "cmyk of 16 bits.tiff": lambda path: tiff(path, np.dstack([GRAY] * 4), "separated"),
    "lab.tiff": lambda path: tiff(path, np.dstack([GRAY // 16] * 3).astype(np.uint8), "cielab"),
    "with a sign.tiff": lambda path: tiff(path, GRAY.astype(np.int8)),
    "with a sign.j2k": lambda path: path.write_bytes(base64.b85decode(JPEG_2000["signed"])),
}


@pytest.mark.parametrize("name", MISREAD)
def test_what_no_reader_gets_right_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    MISREAD[name](tmp_path / name)
    for read in (open_image, distortion):
        with pytest.raises(ValueError, match=rf"^The image '.*{name}' cannot be read \(it.*: save it as PNG") as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=rf"The mask '.*{name}' cannot be read \(it.*: save it as PNG"):
        binary_mask(tmp_path / name)
    with pytest.raises(ValueError, match="save it as PNG"):
        read_pixels(tmp_path / name)


def test_a_turned_mask_of_16_bits_is_upright(tmp_path: Path) -> None:
    stored = np.zeros((40, 60), np.uint16)
    stored[:10, :20] = 65535
    tiff(tmp_path / "mask.tiff", stored, extratags=[(0x0112, "H", 1, 6, True)])
    assert np.array_equal(binary_mask(tmp_path / "mask.tiff"), upright(stored, 6) > 0)


@pytest.mark.parametrize("white", [0.0, -5.0, float("nan")])
def test_white_is_above_zero_over_images_of_8_bits_too(tmp_path: Path, white: float) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    for use in (open_image, read_image):
        with pytest.raises(ValueError, match=f"^--white must be above 0, got {white:g}"):
            use(tmp_path / "plain.png", white)
    with pytest.raises(ValueError, match="--white must be above 0"):
        Parts(tmp_path, white=white)
    with pytest.raises(ValueError, match="--white must be above 0"):
        ImageList([tmp_path], white)


def test_the_digest_of_an_image_is_that_of_its_pixels(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for name, options in {"a.png": {}, "b.png": {"compress_level": 1}, "c.bmp": {}, "d.tiff": {}}.items():
        image.save(tmp_path / name, **options)
    image.save(tmp_path / "e.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "f.png", exif=exif)
    assert len({image_digest(path) for path in tmp_path.iterdir()}) == 1
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert image_digest(tmp_path / "a.png") != image_digest(tmp_path / "b.png")
    Image.fromarray(GRAY).save(tmp_path / "deep.png")
    tiff(tmp_path / "deep.tiff", GRAY)
    open_image(tmp_path / "deep.png", 4095).save(tmp_path / "plain.png")
    kinds = {image_digest(tmp_path / "deep.png", 4095), image_digest(tmp_path / "deep.tiff", 4095)}
    assert kinds == {image_digest(tmp_path / "plain.png")}
