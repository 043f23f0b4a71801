# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Photographs of one's own parts, in folders, read as they are meant.

anomalib's ``Folder`` pairs masks by order, takes every pixel that is not black for a defect, shows images of 16 bits
white and turned ones on their side, draws a fifth of the good images for a test without a seed, and says nothing of
files that it leaves out. :class:`Parts` reads the same folders without any of that.

Example:
    Good parts alone, or all of a data set in the layout of MVTec AD::

        >>> from anople_anomalib.data import Parts
        >>> datamodule = Parts("bottle/good")  # doctest: +SKIP
        >>> datamodule = Parts("datasets/MVTecAD/bottle")  # doctest: +SKIP

    From the command line::

        anomalib train --model AnoPLe --data Parts --data.root bottle --data.abnormal_dir scratched
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, ImageItem
from anomalib.data.utils import LabelName, Split, ValSplitMode
from PIL import Image
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Image as TensorImage
from torchvision.tv_tensors import Mask

from anople_anomalib.utils.files import relative_names

from .dataset_checks import OwnDataModule
from .image_reading import image_digest, note_picture, read_image, require_clear_white, require_white, turned_size
from .listing import OTHER_ENDINGS, Listing, PartFolders, below, find_layout, list_images, name_of, say
from .masks import binary_mask, in_order, pair_masks, require_mask_of
from .sampling import draw_shots

logger = logging.getLogger(__name__)

_SPLITS = (ValSplitMode.SAME_AS_TEST, ValSplitMode.FROM_TEST, ValSplitMode.FROM_TRAIN, ValSplitMode.NONE)


class Parts(OwnDataModule):
    """Good parts, and perhaps defective ones with or without masks, in folders or lists of files.

    Without further arguments ``root`` is a folder in the layout of MVTec AD (``train/good``, ``test/good``,
    ``test/<defect>``, ``ground_truth/<defect>``, perhaps ``validation/good``), one that holds a folder ``good``, or
    that folder itself. ``ok`` and ``normal`` are other names for it.

    Every good part is there to teach from. None is set aside for a test, unless there are defective parts and no good
    ones to test beside them. The place of every image is logged, and of every file that was left out.

    Args:
        root: The folder.
        name: Name of the parts, in the texts of a model and in the path of results; the name of the folder by default.
        normal_dir: Good parts to teach from.
        abnormal_dir: Defective parts, of which the folder's name is the kind of defect.
        normal_test_dir: Good parts to test on.
        mask_dir: Masks of the defective parts, found by name and folder; two lists of the same length, of images and
            masks, belong together in their order.
        calibration_dir: Good parts that the thresholds come from.
        test_share: Share of the good parts that is set aside for the test if there are defective parts and no
            ``normal_test_dir``; 0 for none. It depends on the files' names alone.
        white: Value of images of 16 bits that becomes white (4095 for a camera of 12 bits); ``None`` for 65535, refused
            where all images are far below it.
        ignore: Value of masks that is neither normal nor anomalous in masks of class numbers, often 255.
        train_batch_size: Training batch size.
        eval_batch_size: Validation and test batch size.
        num_workers: Number of worker processes of a data loader.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of those of the three that are not given.
        val_split_mode: Where the thresholds come from if there is no ``calibration_dir``: ``"same_as_test"`` (of no
            effect without a test), ``"from_test"``, ``"from_train"`` or ``"none"``.
        val_split_ratio: Share of the images of the latter two splits.
        seed: Seed of these splits.

    Raises:
        ValueError: If an argument is out of range.
    """

    seed: int

    def __init__(
        self,
        root: str | Path = ".",
        name: str | None = None,
        normal_dir: str | Path | Sequence[str | Path] | None = None,
        abnormal_dir: str | Path | Sequence[str | Path] | None = None,
        normal_test_dir: str | Path | Sequence[str | Path] | None = None,
        mask_dir: str | Path | Sequence[str | Path] | None = None,
        calibration_dir: str | Path | Sequence[str | Path] | None = None,
        test_share: float = 0.2,
        white: float | None = None,
        ignore: int | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int = 0,
    ) -> None:
        require_white(white)
        if not 0 <= test_share < 1:
            msg = f"test_share must be a share of the good parts, 0 or more and less than 1, got {test_share}."
            raise ValueError(msg)
        if ValSplitMode(val_split_mode) not in _SPLITS:
            allowed = ", ".join(mode.value for mode in _SPLITS)
            msg = f"val_split_mode of Parts must be one of {allowed}, got '{ValSplitMode(val_split_mode).value}'."
            raise ValueError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = Path(root)
        self._name = name or name_of(self.root)
        self.normal_dir, self.abnormal_dir, self.normal_test_dir = normal_dir, abnormal_dir, normal_test_dir
        self.mask_dir, self.calibration_dir = mask_dir, calibration_dir
        self.test_share, self.white, self.ignore = test_share, white, ignore

    @property
    def name(self) -> str:  # type: ignore[override]  # a property as in anomalib, a plain attribute in Lightning
        """Name of the parts."""
        return self._name

    @property
    def places(self) -> dict[str, list[str]]:
        """Files by their use: teaching, calibration and test; empty before ``setup``.

        A validation set that is the test set, or a part of the training set, is not named a second time.
        """
        subsets = {"teaching": "train_data", "calibration": "val_data", "test": "test_data"}
        found = {use: vars(self).get(attribute) for use, attribute in subsets.items()}
        paths = {use: [] if subset is None else subset.samples.image_path.tolist() for use, subset in found.items()}
        return {**paths, "calibration": [path for path in paths["calibration"] if path not in paths["test"]]}

    def _setup(self, _stage: str | None = None) -> None:
        """List the images, find the masks and check both."""
        vars(self).pop("val_data", None)  # of an earlier setup
        given = self._folders()
        listings = {use: list_images(paths) for use, paths in given._asdict().items()}
        good, defective, good_test, masks, calibration = (listing.images for listing in listings.values())
        if not good:
            msg = f"There is no image in {', '.join(map(str, given.good))}: give normal_dir a folder of good parts."
            raise ValueError(msg)
        aside: list[Path] = []
        if defective and not good_test and self.test_share and len(good) > 1:
            number = min(max(1, round(self.test_share * len(good))), len(good) - 1)
            aside = [good[index] for index in draw_shots(relative_names(good), number, 0, f"{self.name} test")]
            good, good_test = [path for path in good if path not in aside], aside
        _require_one_use({"teaching": good, "calibration": calibration, "the test": [*good_test, *defective]})
        if self.white is None:
            require_clear_white([*good, *defective, *good_test, *calibration])
        calibrating: dict[str, str] = {}
        for path in calibration:
            note_picture(calibrating, image_digest(path, self.white), str(path))
        pairs = pair_masks(defective, masks, in_order(given.defective, given.masks)) if masks else {}
        for image, mask in pairs.items():
            marked = binary_mask(mask, self.ignore)
            require_mask_of(image, turned_size(image), mask, (marked.shape[1], marked.shape[0]), int(marked.sum()))

        def subset(split: Split, normal: list[Path], abnormal: Sequence[Path] = ()) -> PartsDataset:
            """Make a data set of good and of defective parts."""
            return PartsDataset(_samples(split, normal, abnormal, pairs), self.name, self.white, self.ignore)

        self.train_data = subset(Split.TRAIN, good)
        self.test_data = subset(Split.TEST, good_test, defective)
        if calibration:
            self.val_data = subset(Split.VAL, calibration)
        drawn = f" ({', '.join(path.name for path in aside)} of the good ones were drawn for it)" if aside else ""
        logger.info(
            "%s: %d good parts to teach from, %d for calibration, %d good and %d defective ones to test on%s%s.",
            self.name,
            len(good),
            len(calibration),
            len(good_test),
            len(defective),
            drawn,
            ", with masks" if pairs else "",
        )
        _say_left_out(listings, set(pairs.values()))

    def _create_test_split(self) -> None:
        """Do nothing: the test set is made of folders."""

    def _create_val_split(self) -> None:
        """Split as anomalib does, where there is no calibration set and something to split."""
        if "val_data" not in vars(self) and (self.val_split_mode == ValSplitMode.FROM_TRAIN or len(self.test_data) > 0):
            super()._create_val_split()

    def _folders(self) -> PartFolders:
        """Return the folders of every kind, those that are given before those of the layout."""
        given = (self.normal_dir, self.abnormal_dir, self.normal_test_dir, self.mask_dir, self.calibration_dir)
        named = PartFolders(*(below(self.root, folders) for folders in given))
        if named.good:
            return named
        return PartFolders(*(mine or its for mine, its in zip(named, find_layout(self.root.absolute()), strict=True)))


def white_of(dataset: object) -> float | None:
    """Return the value of 16 bits that is white in a data set's images, ``None`` where none was given."""
    return dataset.white if isinstance(dataset, PartsDataset) else None


class PartsDataset(AnomalibDataset):
    """Images of parts, upright, with all their bits, and binary masks of their size.

    Args:
        samples: A row per image, as in anomalib's data sets.
        name: Name of the parts.
        white: Value of 16 bits that becomes white; ``None`` for 65535, or for 1 in floating point.
        ignore: Value of masks that is neither normal nor anomalous.
    """

    def __init__(self, samples: pd.DataFrame, name: str, white: float | None = None, ignore: int | None = None) -> None:
        super().__init__()
        self.samples = samples
        self._name, self.white, self._ignore = name, white, ignore

    @property
    def name(self) -> str:
        """Name of the parts."""
        return self._name

    def __getitem__(self, index: int) -> ImageItem:
        """Read an image and its mask."""
        row = self.samples.iloc[index]
        image: torch.Tensor = TensorImage(read_image(row.image_path, self.white))
        mask = None
        if self.task == TaskType.SEGMENTATION:
            mask = Mask(self._mask_of(row.mask_path, image.shape[-2:]))
        if self.augmentations is not None:
            image, mask = (self.augmentations(image), None) if mask is None else self.augmentations(image, mask)
        return ImageItem(
            image=image.as_subclass(torch.Tensor),
            gt_mask=mask,
            gt_label=torch.tensor(int(row.label_index)),
            image_path=row.image_path,
            mask_path=row.mask_path,
        )

    def _mask_of(self, path: str, size: Sequence[int]) -> torch.Tensor:
        """Read a mask at the size of its image, shape ``(H, W)``, 0 or 1; a normal image has an empty one."""
        if not path:
            return torch.zeros(*size, dtype=torch.uint8)
        anomalous = Image.fromarray(binary_mask(path, self._ignore)).resize(
            (size[1], size[0]), Image.Resampling.NEAREST
        )
        return torch.from_numpy(np.array(anomalous, dtype=np.uint8))


def _require_one_use(uses: dict[str, Sequence[Path]]) -> None:
    """Refuse an image with two uses: its score would say nothing about new ones."""
    first: dict[Path, str] = {}
    for use, paths in uses.items():
        for path in paths:
            if first.setdefault(path.resolve(), use) != use:
                msg = (
                    f"The image '{path}' is there for {first[path.resolve()]} and for {use}: give every image one use."
                )
                raise ValueError(msg)


def _say_left_out(listings: dict[str, Listing], used_masks: set[Path]) -> None:
    """Name files that are not used."""
    say([path for listing in listings.values() for path in listing.hidden], "hidden files are no images")
    say([path for listing in listings.values() for path in listing.others], OTHER_ENDINGS)
    say([path for path in listings["masks"].images if path not in used_masks], "masks belong to no image")


def _samples(split: Split, good: Sequence[Path], defective: Sequence[Path], pairs: dict[Path, Path]) -> pd.DataFrame:
    rows = [(str(path), path.parent.name, int(LabelName.NORMAL), "", split.value) for path in good]
    rows += [
        (str(path), path.parent.name, int(LabelName.ABNORMAL), str(pairs.get(path, "")), split.value)
        for path in defective
    ]
    samples = pd.DataFrame(rows, columns=["image_path", "label", "label_index", "mask_path", "split"])
    samples.attrs["task"] = (TaskType.SEGMENTATION if pairs else TaskType.CLASSIFICATION).value
    return samples
