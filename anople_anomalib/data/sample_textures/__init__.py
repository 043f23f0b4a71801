# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A small data set of real photographs with painted defects that needs no download.

The photographs (brick, grass, gravel; all of them CC0) ship inside scikit-image's wheel. Each is cut into a strip that
only normal training images come from and a strip that only test images come from. Test images get defects painted
on them (:mod:`.defects`), with exact masks. The files are written once, in the layout of MVTec AD (:mod:`.writing`).

The data set serves first steps, tests and demonstrations. A few photographs with painted defects say little about a
real production line: compare methods on real defects.

Example:
    >>> from anople_anomalib.data import SampleTextures
    >>> datamodule = SampleTextures(category="brick")
    >>> datamodule.prepare_data()
    >>> datamodule.setup()
"""

import os
from pathlib import Path
from typing import Any

import platformdirs
from anomalib.data import AnomalibDataModule, MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode

from anople_anomalib.utils.arguments import did_you_mean

CACHE_VARIABLE = "ANOPLE_CACHE"
"""Environment variable that names another cache folder than the user's."""
VERSION = "v1"
"""Changes with every change of the images; part of the path, so that old files are never taken for new ones."""
CATEGORIES = ("brick", "grass", "gravel")


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
        test_split_mode: How the test set is made.
        test_split_ratio: Share of the images used for testing, where the mode splits them.
        val_split_mode: How the validation set is made.
        val_split_ratio: Share of the images used for validation, where the mode splits them.
        seed: Seed of those splits. It does not change the images.
        **augmentations: ``train_augmentations`` and so on, as of any datamodule of anomalib.

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
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
        **augmentations: Any,
    ) -> None:
        if category not in CATEGORIES:
            meant = did_you_mean(category, CATEGORIES)
            msg = f"SampleTextures has no category '{category}'{meant}; choose one of {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
            **augmentations,
        )
        self.root = (cache_folder() / "sample_textures" if root is None else Path(root)) / VERSION
        self.category = category

    def prepare_data(self) -> None:
        """Write the category's files, unless they are there."""
        if not (self.root / self.category).is_dir():
            from .writing import write_category  # scikit-image and SciPy take half a second to import

            write_category(self.root, self.category)

    def _setup(self, _stage: str | None = None) -> None:
        """Read the training and the test set."""
        self.prepare_data()  # cheap when the files are there; callers without a trainer often forget it
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)


def cache_folder() -> Path:
    """Return the folder of files that are made once: that in ``ANOPLE_CACHE``, or else in the user's cache folder."""
    cache = os.environ.get(CACHE_VARIABLE)
    return Path(cache) if cache else platformdirs.user_cache_path("anople_anomalib")
