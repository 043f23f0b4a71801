# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The few photographs in the training data, all from scikit-image's wheel and all public domain or CC0.

scikit-image states the terms in each loader's docstring (``skimage.data``). Left out: brick, grass and gravel (CC0, but
``SampleTextures`` tests on them), and every image whose terms are not stated as public domain or CC0 (coins, moon,
page, ihc, motorcycle, color, logo, lfw).
"""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

PHOTOGRAPHS: dict[str, str] = {
    "photographer": "camera.png",  # CC0, Lav Varshney
    "astronaut": "astronaut.png",  # public domain, NASA
    "cat": "chelsea.png",  # CC0, Stefan van der Walt
    "coffee": "coffee.png",  # CC0, Rachel Michetti
    "rocket": "rocket.jpg",  # public domain, SpaceX
    "galaxy": "hubble_deep_field.jpg",  # public domain, NASA
    "eye": "retina.jpg",  # CC0 1.0, Wikimedia Commons
    "cell": "cell.png",  # CC0
    "clock": "clock_motion.png",  # public domain, Stefan van der Walt
    "handwriting": "text.png",  # public domain
}
"""Word that names a photograph -> its file in ``skimage/data``."""


@lru_cache(maxsize=64)
def _load(source: str | Path) -> NDArray[np.float32]:
    """Read one image as RGB in [0, 1]."""
    if isinstance(source, str):
        import skimage

        source = Path(skimage.__file__).parent / "data" / source
    pixels = cv2.imread(str(source), cv2.IMREAD_COLOR)
    if pixels is None:
        msg = f"{source} is not an image that OpenCV can read; remove it from the folder."
        raise ValueError(msg)
    return pixels[..., ::-1].astype(np.float32) / 255


def crop_of(rng: np.random.Generator, source: str | Path, size: int) -> NDArray[np.float32]:
    """Crop a random square of an image at a random scale.

    Returns:
        RGB in [0, 1], shape (size, size, 3).
    """
    image = _load(source)
    side = int(min(image.shape[:2]) * rng.uniform(0.5, 1.0))
    y = int(rng.integers(image.shape[0] - side + 1))
    x = int(rng.integers(image.shape[1] - side + 1))
    crop = image[y : y + side, x : x + side]
    return np.clip(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA), 0, 1)
