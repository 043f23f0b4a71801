# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Values of cameras as the images that are judged: 8 bits in color."""

import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_FORMAT = re.compile(r"(Mono|Bayer(?:RG|GR|GB|BG))(8|10|12|14|16)")
_MOSAICS = {
    "BayerRG": cv2.COLOR_BayerRGGB2RGB,
    "BayerGR": cv2.COLOR_BayerGRBG2RGB,
    "BayerGB": cv2.COLOR_BayerGBRG2RGB,
    "BayerBG": cv2.COLOR_BayerBGGR2RGB,
}


def rgb_of(values: NDArray[Any], pixel_format: str) -> NDArray[np.uint8]:
    """Convert a camera's values to 8 bits in color.

    Values of n bits become ``ceil(255 v / (2^n - 1))``, as ``anople convert --white`` makes them; a Bayer mosaic is
    then interpolated bilinearly by OpenCV.

    Args:
        values: Shape ``(H, W)``, or ``(H, W, C)`` for ``RGB8``, ``BGR8``, ``RGBa8`` and ``BGRa8``.
        pixel_format: Name of the format in GenICam's convention, not packed: ``Mono12``, ``BayerRG8``.

    Returns:
        Shape ``(H, W, 3)``.

    Raises:
        ValueError: If the format is another one.
    """
    if pixel_format.removesuffix("Packed") in ("RGB8", "BGR8", "RGBa8", "BGRa8"):  # an older name of the same
        return np.ascontiguousarray(values[..., :3] if pixel_format[0] == "R" else values[..., 2::-1])
    found = _FORMAT.fullmatch(pixel_format)
    if found is None:
        msg = (
            f"Frames of the format {pixel_format} are not read: set the camera to Mono8, Mono12, BayerRG12, RGB8 or so."
        )
        raise ValueError(msg)
    bits = int(found[2])
    plain = values if bits == 8 else np.ceil(values * (255 / (2**bits - 1))).astype(np.uint8)
    return cv2.cvtColor(plain, _MOSAICS.get(found[1], cv2.COLOR_GRAY2RGB)).astype(np.uint8, copy=False)
