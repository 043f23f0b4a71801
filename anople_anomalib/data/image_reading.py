# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which image files show the same in every reader, and how to read the others.

anomalib's data loaders and inferencers read by ``PIL.Image.open(path).convert("RGB")``. That turns a gray image of 16
bits almost white, since Pillow cuts its values off at 255, and leaves an image lying on its side that a camera marks
as rotated. Such files are refused before anything is trained or predicted (:func:`require_plain_images`), and
``anople convert`` makes plain ones of them (:func:`open_image`).
"""

import contextlib
import functools
import hashlib
import io
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torchvision.transforms.v2.functional import to_dtype, to_image

from anople_anomalib.utils.files import READ_ERRORS, digest_of
from anople_anomalib.utils.image_heads import (
    ORIENTATION,
    SIXTEEN_BITS,
    dark_bits,
    deep_white,
    eight_bits,
    opened,
    orientation_of,
)

IMAGE_ERRORS = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError)
"""Errors that Pillow raises for files that it cannot read."""

COMMAND = "anople convert"
"""The command that converts a folder of images."""

DEEP = "has more than 8 bits per channel, which anomalib's readers cut off: it would be white or black"
TURNED = "is marked by its EXIF data as rotated, which anomalib's readers ignore"
_ON_ITS_SIDE = 5  # from this orientation on width and height are exchanged
_TURNED = {2, 3, 6, 7}, {3, 4, 7, 8}  # orientations that are mirrored sideways, and upside down, after that
_KNOWN = 100_000  # digests that are kept


def open_image(path: str | Path, white: float | None = None) -> Image.Image:
    """Read an image or a mask, upright and with at most 8 bits per channel.

    Args:
        path: Its file.
        white: The value of 16 or 32 bits that becomes 255; ``None`` for the largest that the file's kind holds, 65535
            or less, or for 1 in floating point.

    Returns:
        The image. Values of 16 bits are scaled and rounded up, so that no value of a mask vanishes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image, is damaged, too large for Pillow, of a kind that readers show wrongly, or has
            values beyond ``white``.
    """
    require_white(white)
    with _opened(path) as image:
        if (largest := deep_white(image)) is None:
            image.load()
            return ImageOps.exif_transpose(image)
        return Image.fromarray(eight_bits(deep_values(image), white or largest))


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image; whatever is wrong with it within the block, the error names the file."""
    try:
        with opened(path) as image:
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


def image_digest(path: str | Path, white: float | None = None) -> str:
    """Return the SHA-256 of an image's pixels as :func:`read_image` reads them: the same in every lossless format.

    It is read once per process unless the file changes. Of a file that cannot be read it is that of the content.
    """
    require_white(white)
    state = Path(path).stat()
    return _image_digest(str(path), white, state.st_mtime_ns, state.st_size)


@functools.lru_cache(_KNOWN)
def _image_digest(path: str, white: float | None, *_state: int) -> str:
    try:
        return _digest(np.asarray(open_image(path, white).convert("RGB")))
    except ValueError:
        return digest_of(path)


def pixel_digest(image: torch.Tensor) -> str:
    """Return the same of an image at hand, shape ``(3, H, W)``, values in [0, 1]."""
    return _digest(image.mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def _digest(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of pixels of shape ``(H, W, 3)``."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def note_picture(found: dict[str, str], digest: str, name: str) -> None:
    """Note the name of a picture by its digest, and refuse a copy of one that was noted."""
    if digest in found:
        msg = f"'{name}' and '{found[digest]}' are the same picture: a copy is no other part and no repeat."
        raise ValueError(msg)
    found[digest] = name


def require_white(white: float | None) -> None:
    """Refuse a value for white that none can have, whatever the images are."""
    if white is not None and not 0 < white < float("inf"):
        msg = f"--white must be above 0, got {white:g}"
        raise ValueError(msg)


def require_clear_white(paths: Iterable[str | Path]) -> None:
    """Refuse images of 16 bits that use a small part of them, as those of a camera of 12 bits do.

    Args:
        paths: All images of a data set, which have the same white; files that cannot be read, and those whose head says
            what is white, are left out.

    Raises:
        ValueError: If no value is above a quarter of 65535.
    """
    largest, which = 0, Path()
    for path in paths:
        with contextlib.suppress(*IMAGE_ERRORS), opened(path) as image:
            if deep_white(image) == SIXTEEN_BITS and (value := int(deep_values(image).max())) > largest:
                largest, which = value, Path(path)
    if bits := dark_bits(largest):
        msg = (
            f"The largest value in images of 16 bits is {largest} (in '{which}'), so that they would be dark: give the "
            f"value that is white, --white {2**bits - 1} for a camera of {bits} bits, or --white {SIXTEEN_BITS} "
            f"(--data.white of Parts, --white of {COMMAND})."
        )
        raise ValueError(msg)


def deep_values(image: ImageFile.ImageFile) -> NDArray[Any]:
    """Read an opened image of more than 8 bits upright, with its values as they are stored.

    Returns:
        Shape ``(H, W)`` or ``(H, W, 3)``.

    Raises:
        ValueError: If no reader gives more than 8 bits of them.
    """
    orientation, content = orientation_of(image), _content_of(image)
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if values is None or values.dtype == np.uint8:
        values = np.asarray(ImageOps.exif_transpose(image))
        if values.dtype == np.uint8:
            msg = "it has more than 8 bits per channel, of which no reader here gives more: save it as PNG of 16 bits"
            raise ValueError(msg)
        return values
    if values.ndim > 2:
        values = values[..., 2::-1] if values.shape[2] > 2 else values[..., 0]
    if image.format == "TIFF" and _opencv_turns():
        return values
    values = values.swapaxes(0, 1) if orientation >= _ON_ITS_SIDE else values
    across, down = (orientation in turned for turned in _TURNED)
    return values[:: -1 if down else 1, :: -1 if across else 1]


def _content_of(image: ImageFile.ImageFile) -> bytes:
    if image.fp is None:
        msg = "it was read already"
        raise ValueError(msg)
    image.fp.seek(0)
    return image.fp.read()


def _opencv_turns() -> bool:
    """Return whether this OpenCV turns TIFF files although it is told not to; others may not."""
    stream = io.BytesIO()
    lying = Image.fromarray(np.zeros((1, 2), np.uint16))
    lying.save(stream, "TIFF", tiffinfo={ORIENTATION: 6})
    read = cv2.imdecode(
        np.frombuffer(stream.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    )
    return read is not None and read.shape == (2, 1)


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
        return size[::-1] if orientation_of(image) >= _ON_ITS_SIDE else size


def image_size_of(path: str | Path) -> tuple[int, int]:
    """Read height and width of an image, see :func:`turned_size`."""
    width, height = turned_size(path)
    return height, width


def distortion(path: str | Path) -> str | None:
    """Say by the head of an image file how anomalib's readers would distort it; ``None`` for a plain one."""
    with _opened(path) as image:
        if orientation_of(image) != 1:
            return TURNED
        return DEEP if deep_white(image) is not None else None


def require_plain_images(paths: Sequence[str | Path]) -> None:
    """Refuse images that anomalib's readers would distort, by the heads of the files: a ``ValueError``."""
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
