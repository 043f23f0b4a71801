# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which image files show the same in every reader, and how to read the others.

anomalib's data loaders and inferencers read by ``PIL.Image.open(path).convert("RGB")``. That turns a gray image of 16
bits almost white, since Pillow cuts its values off at 255, and leaves an image lying on its side that a camera marks
as rotated. Such files are refused before anything is trained or predicted (:func:`require_plain_images`), and
``anople-convert-images`` makes plain ones of them (:func:`open_image`).
"""

import os
import shlex
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps

from anople_anomalib.utils.files import READ_ERRORS

IMAGE_ERRORS = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that it cannot read."""

COMMAND = "anople-convert-images"
"""The command that converts a folder of images."""

SIXTEEN_BITS = 0xFFFF
_ORIENTATION = 0x0112  # the tag of EXIF
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def is_deep(image: Image.Image) -> bool:
    """Return whether a channel has 16 or 32 bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


def open_image(path: str | Path, white: float | None = None) -> Image.Image:
    """Read an image or a mask, upright and with at most 8 bits per channel.

    Args:
        path: Its file.
        white: The value of 16 or 32 bits that becomes 255; ``None`` for 65535, or for 1 in floating point.

    Returns:
        The image. Values of 16 bits are scaled and rounded up, so that no value of a mask vanishes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image, is damaged, or has values beyond ``white``.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _eight_bits(ImageOps.exif_transpose(image), white)
    except FileNotFoundError:
        raise
    except IMAGE_ERRORS as error:
        msg = f"The image '{path}' cannot be read ({error or type(error).__name__}): repair or remove it."
        raise ValueError(msg) from error


def distortion(path: str | Path) -> str | None:
    """Read the head of an image file and say what anomalib's readers would do wrong.

    Args:
        path: The file.

    Returns:
        The part of an error message that says what is wrong, or ``None`` for a plain image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image.
    """
    try:
        with Image.open(path) as image:
            if is_deep(image):
                return "has more than 8 bits per channel, which anomalib's readers cut off: it would be almost white"
            turned = _orientation(image)
    except FileNotFoundError:
        raise
    except IMAGE_ERRORS as error:
        msg = f"The image '{path}' cannot be read ({error or type(error).__name__}): repair or remove it."
        raise ValueError(msg) from error
    return "is marked by its EXIF data as rotated, which anomalib's readers ignore" if turned != 1 else None


def require_plain_images(paths: Sequence[str | Path], *, readable: bool = True) -> None:
    """Refuse images that anomalib's readers would distort; only the heads of the files are read.

    Args:
        paths: Image files.
        readable: Whether files that cannot be read at all are refused, too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one is not a plain image; the message names it, the number of such images, and the command that
            converts their folder.
    """
    distorted = []
    for path in paths:
        try:
            reason = distortion(path)
        except (OSError, ValueError):
            if readable:
                raise
            continue
        if reason is not None:
            distorted.append((path, reason))
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
    exif = Image.Image.getexif(image)  # PNG's own would decode the pixels, to see what comes after them
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


def _eight_bits(image: Image.Image, white: float | None) -> Image.Image:
    """Bring the values of one channel of 16 or 32 bits into those of 8 bits; other images are fine as they are."""
    if not is_deep(image):
        return image
    values = np.asarray(image, dtype=np.float64)
    largest = white or (1.0 if image.mode == "F" else SIXTEEN_BITS)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= largest):
        msg = f"its values range from {values.min():g} to {values.max():g}, not within [0, {largest:g}]"
        raise ValueError(msg)
    return Image.fromarray(np.ceil(values * (255 / largest)).astype(np.uint8))
