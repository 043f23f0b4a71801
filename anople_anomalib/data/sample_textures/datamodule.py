# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A small data set of real photographs with painted defects that needs no download.

The photographs (brick, grass, gravel; all of them CC0) ship inside scikit-image's wheel. Each is cut into a strip that
only normal training images come from and a strip that only test images come from. Test images get defects painted
on them (:mod:`anople_anomalib.data.sample_textures.defects`), with exact masks. The files are written once, in the
layout of MVTec AD.

The data set serves first steps, tests and demonstrations. A few photographs with painted defects say little about a
real production line: compare methods on real defects.

Example:
    >>> from anople_anomalib.data import SampleTextures
    >>> datamodule = SampleTextures(category="brick")
    >>> datamodule.prepare_data()
    >>> datamodule.setup()
"""

import logging
import os
from pathlib import Path
from zlib import crc32

import numpy as np
import platformdirs
import skimage.data
from anomalib.data import AnomalibDataModule, MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from numpy.random import RandomState
from PIL import Image
from torchvision.transforms.v2 import Transform

from anople_anomalib.utils.arguments import did_you_mean
from anople_anomalib.utils.files import folder_written_whole

from . import defects
from .defects import Defect
from .shapes import Field

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "ANOPLE_CACHE"
"""Environment variable that names another cache folder than the user's."""
VERSION = "v1"
"""Changes with every change of the images; part of the path, so that old files are never taken for new ones."""

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

CATEGORIES = tuple(DEFECTS)

TILE = 192
"""Height and width of the images, in the photographs' own pixels: nothing is enlarged."""
_TRAIN_COLUMNS = slice(0, 192)
_TEST_COLUMNS = slice(192, 512)
_FILLING = 320
"""Height and width of the windows from which painters take foreign texture."""
_TRAIN_IMAGES = 12
_NORMAL_TEST_IMAGES = 15
_IMAGES_PER_DEFECT = 5


class SampleTextures(AnomalibDataModule):
    """Photographs of brick, grass and gravel with painted defects, in the layout of MVTec AD.

    Every category has 12 normal training images, 15 normal test images and five images of each of its six or seven
    kinds of defects, all of 192 x 192 pixels. No pixel of a photograph is in both a training and a test image. The
    files are the same on every run.

    Args:
        root: Folder to keep the files in. ``None`` takes the folder that the environment variable ``ANOPLE_CACHE``
            names, or else the user's cache folder.
        category: One of ``"brick"``, ``"grass"`` and ``"gravel"``.
        train_batch_size: Training batch size.
        eval_batch_size: Validation and test batch size.
        num_workers: Number of worker processes of a data loader; so few and small images need none.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of those of the three that are not given.
        test_split_mode: How the test set is made.
        test_split_ratio: Share of the images used for testing, where the mode splits them.
        val_split_mode: How the validation set is made.
        val_split_ratio: Share of the images used for validation, where the mode splits them.
        seed: Seed of those splits. It does not change the images.

    Raises:
        ValueError: If there is no such category.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        category: str = "brick",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        if category not in CATEGORIES:
            meant = did_you_mean(category, CATEGORIES)
            msg = f"SampleTextures has no category '{category}'{meant}; choose one of {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = (default_root() if root is None else Path(root)) / VERSION
        self.category = category

    def prepare_data(self) -> None:
        """Write the category's files, unless they are there."""
        write_category(self.root, self.category)

    def _setup(self, _stage: str | None = None) -> None:
        """Read the training and the test set."""
        self.prepare_data()  # cheap when the files are there; callers without a trainer often forget it
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)


def default_root() -> Path:
    """Return the folder used where none is given: below ``ANOPLE_CACHE``, or else in the user's cache folder."""
    cache = os.environ.get(CACHE_VARIABLE)
    return (Path(cache) if cache else platformdirs.user_cache_path("anople_anomalib")) / "sample_textures"


def write_category(root: Path, category: str) -> Path:
    """Write one category below ``root``, completely or not at all.

    Args:
        root: Folder of the categories.
        category: One of :data:`CATEGORIES`.

    Returns:
        The category's folder.
    """
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
    strip = _photograph(category)[:, _TRAIN_COLUMNS]
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


def _photograph(category: str) -> np.ndarray:
    """Return scikit-image's photograph of a category, dtype uint8, shape (512, 512)."""
    return getattr(skimage.data, category)()


def _test_window(category: str, size: int, rng: RandomState) -> np.ndarray:
    """Cut a random window out of the test strip, dtype uint8, shape (size, size)."""
    strip = _photograph(category)[:, _TEST_COLUMNS]
    top, left = (rng.randint(0, length - size + 1) for length in strip.shape)
    return strip[top : top + size, left : left + size]


def _shoot(tile: np.ndarray, rng: RandomState) -> np.ndarray:
    """Photograph a tile once more: perhaps mirrored, in slightly other light and with a little sensor noise.

    Args:
        tile: Gray values, dtype uint8, shape (height, width).
        rng: Source of the differences.

    Returns:
        Gray values, dtype uint8, shape (height, width).
    """
    if rng.uniform() < 0.5:
        tile = tile[:, ::-1]
    exposure = rng.uniform(0.94, 1.06)
    slope = rng.uniform(-0.05, 0.05, 2)
    y, x = (np.indices(tile.shape) / TILE) - 0.5
    light: Field = exposure + slope[0] * y + slope[1] * x
    noise = 1.2 * rng.standard_normal(tile.shape)
    return np.clip(np.round(tile * light + noise), 0, 255).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write gray values, dtype uint8, shape (height, width), as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
