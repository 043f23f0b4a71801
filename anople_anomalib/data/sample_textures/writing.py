# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Writes the images and masks of :class:`.SampleTextures`."""

import logging
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import skimage.data
from numpy.random import RandomState
from PIL import Image

from anople_anomalib.utils.files import folder_written_whole

from . import VERSION, defects

logger = logging.getLogger(__name__)


class Defect(NamedTuple):
    """A kind of defect.

    Attributes:
        painter: Function that paints it.
        filling: Photograph whose texture fills the damaged spot; ``None`` for another part of the same one.
    """

    painter: defects.Painter
    filling: str | None = None


DEFECTS: dict[str, dict[str, Defect]] = {
    "brick": {
        "crack": Defect(defects.crack),
        "efflorescence": Defect(defects.bloom),
        "hole": Defect(defects.hole),
        "moss": Defect(defects.overgrowth, filling="grass"),
        "open_joint": Defect(defects.washout),
        "spall": Defect(defects.spall, filling="gravel"),
        "stain": Defect(defects.stain),
    },
    "grass": {
        "burn": Defect(defects.stain),
        "cable": Defect(defects.thread),
        "fungus": Defect(defects.bloom),
        "hole": Defect(defects.hole),
        "litter": Defect(defects.litter),
        "stones": Defect(defects.debris, filling="gravel"),
    },
    "gravel": {
        "cable": Defect(defects.thread),
        "hole": Defect(defects.hole),
        "lime": Defect(defects.bloom),
        "litter": Defect(defects.litter),
        "oil": Defect(defects.stain),
        "weeds": Defect(defects.overgrowth, filling="grass"),
    },
}
"""The kinds of defects of every category; their names are the names of the folders."""

PHOTOGRAPHS = {"brick": skimage.data.brick, "grass": skimage.data.grass, "gravel": skimage.data.gravel}
"""Functions that return gray values, dtype uint8, shape (512, 512)."""

TILE = 192
"""Height and width of the images, in the photographs' own pixels: nothing is enlarged."""
_TRAIN_COLUMNS = slice(0, 192)
_TEST_COLUMNS = slice(192, 512)
_FILLING = 320
"""Height and width of the windows from which painters take foreign texture."""
_TRAIN_IMAGES = 12
_NORMAL_TEST_IMAGES = 15
_IMAGES_PER_DEFECT = 5


def write_category(root: Path, category: str) -> Path:
    """Write one category below ``root``, completely or not at all, unless it is there, and return its folder."""
    folder = root / category
    if folder.is_dir():
        return folder
    logger.info("Writing the sample textures of category '%s' to %s", category, folder)
    with folder_written_whole(folder) as temporary:
        _write_train_images(temporary / "train" / "good", category)
        _write_test_images(temporary, category)
    return folder


def _write_train_images(folder: Path, category: str) -> None:
    """Write the normal training images: views of the training strip at evenly spaced heights."""
    strip = PHOTOGRAPHS[category]()[:, _TRAIN_COLUMNS]
    for number, top in enumerate(np.linspace(0, len(strip) - TILE, _TRAIN_IMAGES).astype(int)):
        view = _shoot(strip[top : top + TILE, :TILE], _random(category, "train", number))
        _save(folder / f"{number:03}.png", view)


def _write_test_images(folder: Path, category: str) -> None:
    """Write the normal and the damaged test images, and the masks of the latter."""
    for number in range(_NORMAL_TEST_IMAGES):
        rng = _random(category, "good", number)
        _save(folder / "test" / "good" / f"{number:03}.png", _shoot(_test_window(category, TILE, rng), rng))
    for kind, defect in DEFECTS[category].items():
        for number in range(_IMAGES_PER_DEFECT):
            rng = _random(category, kind, number)
            clean = _shoot(_test_window(category, TILE, rng), rng)
            filling = _test_window(defect.filling or category, _FILLING, rng)
            damaged, mask = defects.paint(clean / 255, filling / 255, defect.painter, rng)
            _save(folder / "test" / kind / f"{number:03}.png", damaged)
            _save(folder / "ground_truth" / kind / f"{number:03}_mask.png", mask)


def _random(category: str, kind: str, number: int) -> RandomState:
    """Return a source of random numbers for one image, which does not change when others are added."""
    return RandomState(crc32(f"{VERSION}/{category}/{kind}/{number}".encode()))


def _test_window(category: str, size: int, rng: RandomState) -> np.ndarray:
    """Cut a random window out of the test strip, dtype uint8, shape (size, size)."""
    strip = PHOTOGRAPHS[category]()[:, _TEST_COLUMNS]
    top, left = (rng.randint(0, length - size + 1) for length in strip.shape)
    return strip[top : top + size, left : left + size]


def _shoot(tile: np.ndarray, rng: RandomState) -> np.ndarray:
    """Photograph a tile, dtype uint8, shape (height, width), once more: perhaps mirrored, other light, some noise."""
    if rng.uniform() < 0.5:
        tile = tile[:, ::-1]
    exposure = rng.uniform(0.94, 1.06)
    slope = rng.uniform(-0.05, 0.05, 2)
    y, x = (np.indices(tile.shape) / TILE) - 0.5
    light = exposure + slope[0] * y + slope[1] * x
    noise = 1.2 * rng.standard_normal(tile.shape)
    return np.clip(np.round(tile * light + noise), 0, 255).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write gray values, dtype uint8, shape (height, width), as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
