# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How a mask becomes binary.

anomalib calls every pixel anomalous that is not black. A mask that was stored as JPEG has a rim of values 1, 2, 3
around every anomaly, and one with soft edges is larger by half their width. Here a pixel is anomalous if it is brighter
than half of the brightest one; a mask whose brightest value is below 32 holds numbers of classes, and every one but 0
is anomalous.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from anople_anomalib.utils.files import is_deep

from .image_reading import IMAGE_ERRORS, deep_values

_CLASSES = 32
"""Masks without a value as large as this one hold numbers of classes, not brightnesses."""
_LOSSY = {"JPEG", "MPO", "WEBP", "JPEG2000"}
_FAINT, _FLAT, _SOFT = 1 / 8, 5, 9
"""An area, not an edge: brighter than this share of the brightest value, below half, constant over so many pixels;
or with nothing brighter in a window of so many."""


def binary_mask(path: str | Path, ignore: int | None = None) -> NDArray[np.bool_]:
    """Read a mask.

    Args:
        path: Its file, of any mode; of colors the largest channel counts, of one color on transparency the opacity.
        ignore: The value of pixels that are neither normal nor anomalous in a mask of class numbers, often 255. With it
            every other value but 0 is anomalous; anomalib knows no third kind, so that ignored pixels count as normal.

    Returns:
        Where it is anomalous, shape ``(H, W)``.

    Raises:
        ValueError: If it cannot be read, or has flat areas of several values, so that it is not clear what is
            anomalous.
    """
    try:
        with Image.open(path) as image:
            deep, lossy = is_deep(image), image.format in _LOSSY
            upright = None if deep else ImageOps.exif_transpose(image)
        values = deep_values(path) if upright is None else _values(upright)
    except IMAGE_ERRORS as error:
        msg = f"The mask '{path}' cannot be read ({error or type(error).__name__}): repair or remove it."
        raise ValueError(msg) from error
    values = values.reshape(*values.shape[:2], -1).max(axis=2).astype(np.float64)
    if ignore is not None:
        return (values > 0) & (values != ignore)
    largest = values.max()
    if largest < _CLASSES:
        return values > 0
    # a mask that was a JPEG file once has many low values around an anomaly; one of class numbers has few
    few = not lossy and len(np.unique(values)) <= _CLASSES
    faint = (values > (0 if few else _FAINT * largest)) & (2 * values <= largest)
    area = ndimage.maximum_filter(values, _FLAT) == ndimage.minimum_filter(values, _FLAT)
    if few:  # thin areas, too: a soft edge is beside something bright
        area |= 2 * ndimage.maximum_filter(values, _SOFT) <= largest
    unclear = faint & area
    if unclear.any():
        value = values[unclear][0]
        msg = (
            f"The mask '{path}' has areas of value {value:g} beside others of {largest:g}, and it is not clear whether "
            f"they are anomalous: make them 0 or {largest:g}; if they are numbers of classes and {largest:g} is none, "
            f"say --data Parts --data.ignore {largest:g}."
        )
        raise ValueError(msg)
    return 2 * values > largest


def require_marked(image: str | Path, mask: str | Path, anomalous: int) -> None:
    """Refuse a mask of a defective part without an anomalous pixel.

    Args:
        image: The image.
        mask: Its mask.
        anomalous: Number of its anomalous pixels.

    Raises:
        ValueError: If there is none.
    """
    if not anomalous:
        msg = f"The mask '{mask}' of the defective part '{image}' marks no pixel: draw the defect in it, in white."
        raise ValueError(msg)


def require_same_shape(image: str | Path, size: tuple[int, int], mask: str | Path, mask_size: tuple[int, int]) -> None:
    """Refuse a mask of another shape than its image; another size of the same shape is fine.

    Args:
        image: The image.
        size: Its width and height.
        mask: Its mask.
        mask_size: Width and height of the mask.

    Raises:
        ValueError: If the mask would be stretched by more than a pixel.
    """
    (width, height), (mask_width, mask_height) = size, mask_size
    if abs(width * mask_height - height * mask_width) > max(size) + max(mask_size):  # rounded when it was resized
        msg = (
            f"The mask '{mask}' has {mask_width}x{mask_height} pixels, its image '{image}' {width}x{height}: it would "
            "be stretched over it. Draw the mask on the image as it is seen upright and whole."
        )
        raise ValueError(msg)


def _values(image: Image.Image) -> NDArray[np.uint8]:
    """Return the values of a mask of 8 bits, shape ``(H, W, 3)``, or its opacity, ``(H, W)``, if that is drawn."""
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    values = np.asarray(image.convert("RGBA"))
    colors, opacity = values[..., :3], values[..., 3]
    drawn = colors[opacity > 0].max(axis=-1, initial=0) if colors.size else colors
    if opacity.min() < opacity.max() and drawn.min(initial=255) == drawn.max(initial=0):
        return opacity
    return colors * (opacity > 0)[..., None]
