# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How a mask becomes binary.

anomalib calls every pixel anomalous that is not black. A mask that was stored as JPEG has a rim of values 1, 2, 3
around every anomaly, and one with soft edges is larger by half their width. Here a pixel is anomalous if it is brighter
than half of the brightest one; a mask whose brightest value is below 32 holds numbers of classes, and every one but 0
is anomalous. Where that is not what anomalib reads, :func:`readable_mask` gives it a mask that it reads so.
"""

import functools
import hashlib
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from .image_reading import IMAGE_ERRORS, is_deep

_CLASSES = 32
"""Masks without a value as large as this one hold numbers of classes, not brightnesses."""
_FAINT, _FLAT = 1 / 8, 5
"""An area, not an edge: brighter than this share of the brightest value, below half, constant over so many pixels."""


def readable_mask(path: str | Path) -> Path:
    """Find a file from which anomalib reads the mask that :func:`binary_mask` reads.

    Args:
        path: A mask.

    Returns:
        The path itself, or that of a copy in a temporary folder that this process removes when it ends.

    Raises:
        ValueError: If the mask cannot be read, or it is not clear what is anomalous.
    """
    path = Path(path)
    state = path.stat()
    return _readable_mask(path.absolute(), state.st_mtime_ns, state.st_size)


def is_copy(path: str | Path) -> bool:
    """Return whether a file is a copy that :func:`readable_mask` has made, whose name says nothing about its image."""
    return Path(path).is_relative_to(_temporary_folder().name)


@functools.cache
def _readable_mask(path: Path, modified: int, size: int) -> Path:
    anomalous = binary_mask(path)
    with Image.open(path) as image:
        if np.array_equal(np.asarray(image.convert("L")) > 0, anomalous):
            return path
    digest = hashlib.sha256(f"{path}{modified}{size}".encode()).hexdigest()[:16]
    copy = Path(_temporary_folder().name) / f"{path.stem}_{digest}.png"
    Image.fromarray(anomalous.astype(np.uint8) * 255).save(copy)
    return copy


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="anople_masks_")


def binary_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask.

    Args:
        path: Its file, of any mode; of colors the largest channel counts.

    Returns:
        Where it is anomalous, shape ``(H, W)``.

    Raises:
        ValueError: If it cannot be read, or has flat areas of several brightnesses, so that it is not clear what is
            anomalous.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            values = np.asarray(upright if is_deep(upright) else upright.convert("RGB"))
    except IMAGE_ERRORS as error:
        msg = f"The mask '{path}' cannot be read ({error or type(error).__name__}): repair or remove it."
        raise ValueError(msg) from error
    values = values.reshape(*values.shape[:2], -1).max(axis=2).astype(np.float64)
    largest = values.max()
    if largest < _CLASSES:
        return values > 0
    faint = (values > _FAINT * largest) & (2 * values <= largest)
    flat = ndimage.maximum_filter(values, _FLAT) == ndimage.minimum_filter(values, _FLAT)
    if (faint & flat).any():
        value = values[faint & flat][0]
        msg = (
            f"The mask '{path}' has areas of value {value:g} beside others of {largest:g}, and it is not clear whether "
            f"they are anomalous: make them 0 or {largest:g}."
        )
        raise ValueError(msg)
    return 2 * values > largest
