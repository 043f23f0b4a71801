# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which image files show the same in every reader, and how to read the others.

anomalib's data loaders and inferencers read by ``PIL.Image.open(path).convert("RGB")``. That turns a gray image of 16
bits almost white, since Pillow cuts its values off at 255, and leaves an image lying on its side that a camera marks
as rotated. Such files are refused before anything is trained or predicted (:func:`require_plain_images`), and
``anople convert`` makes plain ones of them (:func:`open_image`).
"""

import contextlib
import os
import shlex
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torchvision.transforms.v2.functional import to_dtype, to_image

from anople_anomalib.utils.files import READ_ERRORS, is_deep

IMAGE_ERRORS = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError)
"""Errors that Pillow raises for files that it cannot read."""

COMMAND = "anople convert"
"""The command that converts a folder of images."""

SIXTEEN_BITS = 0xFFFF
_ORIENTATION = 0x0112  # the tag of EXIF
_ON_ITS_SIDE = 5  # from this orientation on width and height are exchanged
_SCALED_BY_PILLOW = {".pgm", ".ppm", ".pnm"}  # by the largest value that their head names
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def open_image(path: str | Path, white: float | None = None) -> Image.Image:
    """Read an image or a mask, upright and with at most 8 bits per channel.

    Args:
        path: Its file.
        white: The value of 16 or 32 bits that becomes 255; ``None`` for 65535, or for 1 in floating point.

    Returns:
        The image. Values of 16 bits are scaled and rounded up, so that no value of a mask vanishes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image, is damaged, too large for Pillow, or has values beyond ``white``.
    """
    with _opened(path) as image:
        if not is_deep(image):
            image.load()
            return ImageOps.exif_transpose(image)
        plain = Image.fromarray(_eight_bits(deep_values(path), white))
        plain.getexif()[_ORIENTATION] = _orientation(image)
    return ImageOps.exif_transpose(plain)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image; whatever is wrong with it within the block, the error names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        msg = (
            f"The image '{path}' is larger than Pillow opens unasked ({error}). If it comes from your own camera, "
            "allow it (--megapixels of anople teach, judge and watch; PIL.Image.MAX_IMAGE_PIXELS in Python), and teach "
            "in tiles (--tiles auto), so that its defects are not shrunk away."
        )
        raise ValueError(msg) from error
    except IMAGE_ERRORS as error:
        msg = f"The image '{path}' cannot be read ({error or type(error).__name__}): repair or remove it."
        raise ValueError(msg) from error


def read_image(path: str | Path, white: float | None = None) -> torch.Tensor:
    """Read an image in color as :func:`open_image` does, shape ``(3, H, W)``, values in [0, 1]."""
    return to_dtype(to_image(open_image(path, white).convert("RGB")), torch.float32, scale=True)


def require_clear_white(paths: Iterable[str | Path]) -> None:
    """Refuse images of 16 bits that use a small part of them, as those of a camera of 12 bits do.

    Args:
        paths: All images of a data set, which have the same white; files that cannot be read are left to others.

    Raises:
        ValueError: If no value is above a quarter of 65535.
    """
    largest, which = 0, Path()
    for path in paths:
        with contextlib.suppress(*IMAGE_ERRORS):
            with Image.open(path) as image:
                deep = is_deep(image) and image.mode != "F"
            if deep and (value := int(deep_values(path).max())) > largest:
                largest, which = value, Path(path)
    if 255 < largest <= SIXTEEN_BITS // 4:
        bits = largest.bit_length()
        msg = (
            f"The largest value in images of 16 bits is {largest} (in '{which}'), so that they would be dark: give the "
            f"value that is white, --white {2**bits - 1} for a camera of {bits} bits, or --white {SIXTEEN_BITS} "
            f"(--data.white of Parts, --white of {COMMAND})."
        )
        raise ValueError(msg)


def deep_values(path: str | Path) -> NDArray[Any]:
    """Read an image of 16 or 32 bits as it is stored, not turned, shape ``(H, W)`` or ``(H, W, 3)``."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype == np.uint8 or Path(path).suffix.lower() in _SCALED_BY_PILLOW:
        with Image.open(path) as image:
            return np.asarray(image)
    return values if values.ndim == 2 else values[..., 2::-1] if values.shape[2] > 2 else values[..., 0]


def turned_size(path: str | Path) -> tuple[int, int]:
    """Read width and height of an image as it is seen upright, from the head of its file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image.
    """
    with _opened(path) as image:
        size = image.size
        if isinstance(image, TiffImageFile):  # which newer versions of Pillow turn themselves
            size = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        return size[::-1] if _orientation(image) >= _ON_ITS_SIDE else size


def image_size_of(path: str | Path) -> tuple[int, int]:
    """Read height and width of an image, see :func:`turned_size`."""
    width, height = turned_size(path)
    return height, width


def distortion(path: str | Path) -> str | None:
    """Read the head of an image file and say how anomalib's readers would distort it; ``None`` for a plain image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image.
    """
    with _opened(path) as image:
        if is_deep(image):
            return "has more than 8 bits per channel, which anomalib's readers cut off: it would be white or black"
        turned = _orientation(image)
    return "is marked by its EXIF data as rotated, which anomalib's readers ignore" if turned != 1 else None


def require_plain_images(paths: Sequence[str | Path]) -> None:
    """Refuse images that anomalib's readers would distort; only the heads of the files are read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one is not a plain image; the message names it, the number of such images, and the command that
            converts their folder.
    """
    distorted = [(path, reason) for path in paths if (reason := distortion(path)) is not None]
    if not distorted:
        return
    path, reason = distorted[0]
    folder = os.path.commonpath([Path(each).absolute().parent for each, _ in distorted])
    msg = (
        f"The image '{path}' {reason}. It is one of {len(distorted)} such images of {len(paths)}; convert their folder "
        f"(or the folder of the whole data set): {COMMAND} {shlex.quote(folder)} {shlex.quote(folder + '_8bit')}"
    )
    raise ValueError(msg)


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the orientation that EXIF gives an image, 1 for upright, without decoding its pixels."""
    exif = Image.Image.getexif(image)  # PNG's own would decode the pixels, to see the chunks after them
    if _ORIENTATION not in exif and image.format == "PNG" and image.fp is not None:
        exif.load(next((content for kind, content in _png_chunks(image.fp) if kind == b"eXIf"), b""))
    return exif.get(_ORIENTATION, 1)


def _png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Return the kinds of the chunks of a PNG file, and the content of ``eXIf``; pixels are skipped."""
    file.seek(0)
    if file.read(8) != _PNG_SIGNATURE:
        return
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            yield kind, file.read(length)
        else:
            yield kind, b""
            file.seek(length, os.SEEK_CUR)
        file.seek(4, os.SEEK_CUR)  # the checksum


def _eight_bits(values: NDArray[Any], white: float | None) -> NDArray[np.uint8]:
    """Bring values of 16 bits, 32 bits or floating point into those of 8 bits."""
    largest = (1.0 if values.dtype.kind == "f" else SIXTEEN_BITS) if white is None else white
    if largest <= 0:
        msg = f"--white must be above 0, got {largest:g}"
        raise ValueError(msg)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= largest):
        msg = f"its values range from {values.min():g} to {values.max():g}, not within [0, {largest:g}]"
        raise ValueError(msg)
    return np.ceil(values.astype(np.float64) * (255 / largest)).astype(np.uint8)
