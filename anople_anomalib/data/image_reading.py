# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images of every kind, read the way anomalib reads plain ones.

anomalib reads by ``PIL.Image.open(path).convert("RGB")``. That turns a gray image of 16 bits almost white, since
Pillow cuts its values off at 255, leaves an image lying on its side that a camera marks as rotated, and, for a
truncated file, fails without naming it. While AnoPLe is at work, anomalib's readers open images by
:func:`open_image` instead.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, ImageOps

_READERS = ("anomalib.data.utils.image", "anomalib.visualization.image.item_visualizer")
"""The modules of anomalib that open the files of a data set."""
_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, Image.DecompressionBombError)
_SIXTEEN_BITS = 0xFFFF


class _CarefulImage:
    """Stands in for the module ``PIL.Image``, with another ``open``."""

    @staticmethod
    def open(path: str | Path) -> Image.Image:
        """Open an image."""
        return open_image(path)

    def __getattr__(self, name: str) -> object:
        """Return everything else from the module itself."""
        return getattr(Image, name)


_CAREFUL = _CarefulImage()


def read_carefully() -> None:
    """Let anomalib's readers open images by :func:`open_image`, in this process and those forked from it."""
    for module in _readers(Image):
        module.Image = _CAREFUL


def restore_reading() -> None:
    """Give anomalib's readers their own way back."""
    for module in _readers(_CAREFUL):
        module.Image = Image


def _readers(image: object) -> Iterator[ModuleType]:
    """Return the modules that open images by ``image``."""
    modules = (importlib.import_module(name) for name in _READERS)
    return (module for module in modules if getattr(module, "Image", None) is image)


def open_image(path: str | Path) -> Image.Image:
    """Read an image or a mask, upright and with at most 8 bits per channel.

    Args:
        path: Its file.

    Returns:
        The image. Values of 16 bits are divided by 257, those of floating point, in [0, 1], multiplied by 255;
        both are rounded up, so that no value of a mask vanishes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image, is damaged, or has values of an unknown range.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _eight_bits(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except _ERRORS as error:
        msg = f"The image '{path}' cannot be read ({error or type(error).__name__}): repair or remove it."
        raise ValueError(msg) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring the values of one channel of 16 or 32 bits into those of 8 bits; other images are fine as they are."""
    if image.mode == "F":
        largest = 1.0
    elif image.mode == "I" or image.mode.startswith("I;16"):
        largest = _SIXTEEN_BITS
    else:
        return image
    values = np.asarray(image, dtype=np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= largest):
        msg = f"its values range from {values.min():g} to {values.max():g}, not within [0, {largest:g}]"
        raise ValueError(msg)
    return Image.fromarray(np.ceil(values * (255 / largest)).astype(np.uint8))
