# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which files Pillow reads as images, and which of them hold more than it shows. Pillow alone is imported."""

import functools

from PIL import Image, ImageFile


@functools.cache
def all_endings() -> frozenset[str]:
    """Return the endings of all images that Pillow reads, more than anomalib lists: ``.jfif``, ``.jp2``, ``.gif``."""
    Image.init()
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def is_deep(image: Image.Image) -> bool:
    """Return whether a file that was opened, and not loaded yet, has 16 or 32 bits in a channel, gray or color."""
    modes = image.mode in {"I", "F"} or image.mode.startswith("I;16")
    # Pillow has no mode for color of 16 bits: it takes the upper 8, and says so only in what its decoder is given
    return modes or (isinstance(image, ImageFile.ImageFile) and any(";16" in str(tile) for tile in image.tile))
