# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Heads of image files: how many bits a channel has, which way up it is, and which files no reader shows right.

Of the imports here, Pillow and numpy alone are no part of Python: the runtime without torch has this file.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

SIXTEEN_BITS = 0xFFFF
ORIENTATION = 0x0112
"""Tag of EXIF."""
_GRAY_OR_RGB = (1, 2)  # photometric interpretations: black is 0
_SIGNED = 2  # a sample format
_SEPARATE = 2  # a planar configuration
_OF_SEVERAL = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")
"""Formats of several pictures of equal rank; the second one in a phone's JPEG is a smaller one, or its depth."""
_KIND_OF_PAGE, _NO_PAGE = 254, 0b101  # a tag, and its bits for a smaller picture and for a mask
_CODESTREAM, _PRECISION = b"\xff\x4f\xff\x51", 42  # of JPEG 2000, and where its bits stand behind that
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@contextmanager
def opened(file: str | Path | IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    """Open an image by Pillow, which reads the pixels when they are asked for.

    Never by its name: Pillow maps an uncompressed TIFF file whose name it knows into memory with width and height of
    the upright image, and so scrambles one that lies on its side.

    Args:
        file: Its path, or an open file.

    Raises:
        OSError: If it is not there or no image.
        ValueError: If it is of a kind that the readers show wrongly without a word.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(Path(file).open("rb")) if isinstance(file, str | Path) else file
        try:
            image = stack.enter_context(Image.open(stream))
        except UnidentifiedImageError as error:
            msg = "cannot identify it as an image"
            raise UnidentifiedImageError(msg) from error
        if fault := _misread(image):
            raise ValueError(fault)
        yield image


def deep_white(image: ImageFile.ImageFile) -> float | None:
    """Return which value is white in an image of more than 8 bits in a channel, gray or color, as its head says.

    Args:
        image: An image that was opened, and not loaded yet.

    Returns:
        65535 unless the file says another; 1 in floating point; ``None`` for an image of 8 bits.
    """
    if image.format == "JPEG2000":
        bits = _jpeg_2000_precision(image) & 0x7F
        return None if bits < 8 else float(2 ** (bits + 1) - 1)
    if image.format == "PPM" and image.mode != "F":
        arguments = image.tile[0][3]
        largest = arguments[1] if isinstance(arguments, tuple) else SIXTEEN_BITS if image.mode == "I" else 0
        return float(largest) if largest > 255 else None
    if image.mode == "F":
        return 1.0
    # Pillow has no mode for color of 16 bits: it takes the upper 8, and says so only in its decoder's arguments
    deep = image.mode == "I" or image.mode.startswith("I;16") or any(";16" in str(tile) for tile in image.tile)
    return float(SIXTEEN_BITS) if deep or _tiff_bits(image) > 8 else None


def dark_bits(largest: float) -> int:
    """Return how many of 16 bits images use whose largest value this is; 0 where they use at least 15, or 8 at most."""
    return int(largest).bit_length() if 255 < largest <= SIXTEEN_BITS // 4 else 0


def eight_bits(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Bring values of 16 bits, 32 bits or floating point into those of 8 bits, rounded up.

    Raises:
        ValueError: If one is not within [0, white].
    """
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
        msg = f"its values range from {values.min():g} to {values.max():g}, not within [0, {white:g}]"
        raise ValueError(msg)
    return np.ceil(values.astype(np.float64) * 255 / white).astype(np.uint8)


def orientation_of(image: ImageFile.ImageFile) -> int:
    """Return the orientation that EXIF gives an image, 2 to 8, or 1 for upright, without decoding its pixels."""
    exif = Image.Image.getexif(image)  # PNG's own would decode the pixels, to see the chunks after them
    if ORIENTATION not in exif and image.format == "PNG" and image.fp is not None:
        exif.load(next((content for kind, content in _png_chunks(image.fp) if kind == b"eXIf"), b""))
    orientation = exif.get(ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _misread(image: ImageFile.ImageFile) -> str:
    """Say how the readers show an image wrongly; nothing of most."""
    if image.format == "JPEG2000" and _jpeg_2000_precision(image) & 0x80:
        return "its values have a sign: save it as PNG"
    if image.mode == "LAB":
        return "its colors are those of CIE Lab: save it as PNG in RGB"
    if image.format in _OF_SEVERAL and _has_more(image):
        return "it has several pages or frames, of which readers take the first alone: save each as a file of its own"
    if not isinstance(image, TiffImageFile):
        return ""
    tags, bits = image.tag_v2, _tiff_bits(image)
    if bits <= 8:
        return "its values have a sign: save it as PNG" if _SIGNED in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()) else ""
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == _SEPARATE and tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) > 1:
        kind = "separate planes"
    elif tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) not in _GRAY_OR_RGB:
        kind = "values that are neither gray from black on nor RGB"
    elif bits not in (16, 32):
        kind = "packed values"
    else:
        return ""
    return f"it has {kind} of {bits} bits, which no reader here gets right: save it as PNG of 16 bits"


def _has_more(image: ImageFile.ImageFile) -> bool:
    """Return whether a file holds a second picture, other than a smaller one or a mask of the first."""
    for number in count(1):
        try:
            image.seek(number)
        except EOFError:
            image.seek(0)
            return False
        if not isinstance(image, TiffImageFile) or not image.tag_v2.get(_KIND_OF_PAGE, 0) & _NO_PAGE:
            return True
    raise AssertionError  # files end


def _tiff_bits(image: ImageFile.ImageFile) -> int:
    """Return the bits of a channel of a TIFF file, 0 of another."""
    return max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) if isinstance(image, TiffImageFile) else 0


def _jpeg_2000_precision(image: ImageFile.ImageFile) -> int:
    """Return a channel's number of bits, less 1, and 128 more if it has a sign; Pillow tells of neither in color.

    Raises:
        ValueError: If the file has no pixels.
    """
    if image.fp is None:
        msg = "it was read already"
        raise ValueError(msg)
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(1 << 20)
    image.fp.seek(place)
    start = head.find(_CODESTREAM)
    if start < 0 or len(head) <= start + _PRECISION:
        msg = "its head does not say how many bits it has"
        raise ValueError(msg)
    return head[start + _PRECISION]


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
