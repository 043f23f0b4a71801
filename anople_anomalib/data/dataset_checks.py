# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Refuses, before a run, data that anomalib's own data sets would read wrongly without a word.

Nothing of anomalib's is changed: every message names the file and the way out, often :class:`.parts.Parts`.
"""

import functools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset, Datumaro, PredictDataset
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from anomalib.data.utils.image import read_mask
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset

from anople_anomalib.utils.batches import datamodule_of
from anople_anomalib.utils.files import common_folder, is_hidden

from .image_reading import TURNED, distortion, require_plain_images, turned_size
from .listing import is_good, say_other_endings
from .masks import PAIRED_BY_ORDER, READ_BY_PARTS, binary_mask, require_mask_of, require_same_pairs

PANDAS_3 = int(pd.__version__.partition(".")[0]) > 2
"""Its strings are not equal to anomalib's splits, and its missing paths are numbers."""
SUBSETS = ("train_data", "val_data", "test_data")
_TOLERANCE = 0.1
"""Share of all anomalous pixels by which anomalib's reading of masks may differ."""


class OwnDataModule(AnomalibDataModule):
    """A datamodule of this package, which has checked its images once it is set up."""

    def val_dataloader(self) -> Any:  # as in anomalib
        """Return the loader of the images that thresholds come from.

        Raises:
            ValueError: If there are none: a threshold from nothing calls every part good.
        """
        if not vars(self).get("val_data"):
            msg = (
                f"{self.name} has no images that thresholds could come from: teach fewer of the good parts than there "
                "are (FewShot's k_shot), or give some that are not taught (calibration_dir of Parts, or val_split_mode "
                "'from_train')."
            )
            raise ValueError(msg)
        return super().val_dataloader()


def class_names_of(datamodule: AnomalibDataModule | None) -> str | list[str]:
    """Return a datamodule's categories, else its category, else its name; ``"object"`` without a datamodule."""
    if datamodule is None:
        return "object"
    return list(vars(datamodule).get("categories", ())) or datamodule.category or datamodule.name or "object"


def subset_of(datamodule: AnomalibDataModule, name: str) -> AnomalibDataset | None:
    """Return one of a datamodule's :data:`SUBSETS`, if it is there and not empty."""
    subset = vars(datamodule).get(name)
    return subset if isinstance(subset, AnomalibDataset) and len(subset) else None


def check_run(trainer: Trainer) -> None:
    """Check the images of a run, after its datamodule is set up and before its loaders are made; or a ValueError."""
    datamodule = datamodule_of(trainer)
    if isinstance(datamodule, AnomalibDataModule) and not isinstance(datamodule, OwnDataModule):
        fits = trainer.state.fn == TrainerFn.FITTING
        if fits:
            require_training_images(datamodule)
            require_seed(datamodule)
        if trainer.state.fn in (TrainerFn.FITTING, TrainerFn.TESTING) and vars(datamodule).get("test_data"):
            _require_paths(datamodule, test_set_of(datamodule))
        require_clear_labels(datamodule)
        check_datamodule(datamodule, SUBSETS if fits else SUBSETS[1:])
    for dataset in _datasets(trainer):
        if isinstance(dataset, PredictDataset):
            _require_visible(dataset.image_filenames, "name the images one by one")
            require_plain_images(dataset.image_filenames)
            say_other_endings(dataset.image_filenames)
        elif isinstance(dataset, AnomalibDataset) and type(dataset).__module__.startswith("anomalib."):
            require_plain_images(dataset.samples.image_path.tolist())


def check_datamodule(datamodule: AnomalibDataModule, names: Sequence[str] = SUBSETS) -> None:
    """Check the data sets of a datamodule of anomalib that is set up.

    Args:
        datamodule: The datamodule.
        names: Its data sets to look at.

    Raises:
        ValueError: If a file is hidden, an image would be distorted, or a mask is not the image's, is empty, has
            another shape or is read as another one.
    """
    found = [subset for name in names if (subset := subset_of(datamodule, name)) is not None]
    subsets = [each for each in found if type(each).__module__.startswith("anomalib.")]
    paths = list(dict.fromkeys(str(path) for subset in subsets for path in subset.samples.image_path))
    _require_visible(paths, f"remove them, or {READ_BY_PARTS}")
    require_plain_images(paths)
    _require_right_masks(subsets)


def require_clear_labels(datamodule: AnomalibDataModule) -> None:
    """Refuse annotations of Datumaro that anomalib takes for something else: its label 0 is normal, 1 is anomalous.

    Raises:
        ValueError: If the first label is not one of good parts by its name, the others are more than one, or an image
            has no label.
    """
    if not isinstance(datamodule, Datumaro):
        return
    path = Path(datamodule.root) / "annotations" / "default.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    labels = [each["name"] for each in content["categories"]["label"]["labels"]]
    shown = ", ".join(f"{number} '{label}'" for number, label in enumerate(labels))
    unlabeled = [item["id"] for item in content["items"] if not item["annotations"]]
    problem = None
    if not labels or not is_good(labels[0]):
        problem = (
            "number 0 is normal to anomalib, whatever its name: put the label of good parts, such as 'good', first"
        )
    elif len(labels) > 2:
        problem = f"anomalib leaves out all images of '{labels[2]}' and later ones: join the defects under one label"
    elif unlabeled:
        problem = (
            f"the image '{unlabeled[0]}' is one of {len(unlabeled)} without any: give it '{labels[0]}' if it is good"
        )
    if problem:
        msg = f"The labels of '{path}' are {shown}, and {problem}."
        raise ValueError(msg)


def require_seed(datamodule: AnomalibDataModule) -> None:
    """Refuse to draw images at random without a seed of data or Lightning: thresholds would differ between runs."""
    if datamodule.seed is not None or "PL_GLOBAL_SEED" in os.environ:
        return
    random = {ValSplitMode.FROM_TRAIN, ValSplitMode.FROM_TEST, ValSplitMode.SYNTHETIC}
    drawn = _drawn_from_training(datamodule)
    if datamodule.val_split_mode in random:
        part = f"draws its validation images at random (val_split_mode '{datamodule.val_split_mode.value}')"
    elif drawn:
        part = f"has drawn {drawn} of the good images at random for a test"
    else:
        return
    msg = (
        f"{type(datamodule).__name__} {part} and has no seed, so that thresholds would differ from run to run: set "
        "--data.seed 0, or --data Parts, which keeps all good parts to teach from."
    )
    raise ValueError(msg)


def require_apart(datamodule: AnomalibDataModule) -> None:
    """Refuse images that are both taught and judged, with a ``ValueError``: their scores say nothing about new ones."""
    training = _resolved(datamodule, "train_data")
    for name, use in (("val_data", "the thresholds"), ("test_data", "the test")):
        both = training & _resolved(datamodule, name)
        if both:
            msg = (
                f"'{min(both)}' is one of {len(both)} images of {type(datamodule).__name__} that are both for training "
                f"and for {use}: give other images for {use}."
            )
            raise ValueError(msg)


def test_set_of(datamodule: AnomalibDataModule) -> AnomalibDataset:
    """Return the data set that a datamodule of anomalib tests on, which is not always its ``test_data``.

    Raises:
        ValueError: If it has thrown its good images away, or its good images cannot be read.
    """
    test: AnomalibDataset = datamodule.test_dataloader().dataset
    if datamodule.test_split_mode == TestSplitMode.NONE and test.has_anomalous and not test.has_normal:
        msg = (
            f"{type(datamodule).__name__} tests on defects alone, for which image AUROC is not defined: set "
            "test_split_mode to 'from_dir' (--data.test_split_mode from_dir), without which anomalib leaves the good "
            "test images out."
        )
        raise ValueError(msg)
    return test


def require_training_images(datamodule: AnomalibDataModule) -> None:
    """Refuse an empty training set that pandas 3 makes of a full one: its strings never equal anomalib's splits."""
    if PANDAS_3 and len(datamodule.train_data) == 0:
        msg = (
            f"anomalib finds no training images of {type(datamodule).__name__}. If they are there, it cannot read it "
            f"with pandas {pd.__version__}: pip install 'pandas<3', or {READ_BY_PARTS}."
        )
        raise ValueError(msg)


def _require_paths(datamodule: AnomalibDataModule, test: AnomalibDataset) -> None:
    """Refuse numbers in place of the paths of masks, which pandas 3 makes of missing ones."""
    if "mask_path" in test.samples and test.samples.mask_path.map(lambda path: isinstance(path, float)).any():
        msg = (
            f"anomalib cannot read {type(datamodule).__name__} with pandas {pd.__version__}: wrap it in FewShot, or "
            "pip install 'pandas<3'."
        )
        raise ValueError(msg)


def _drawn_from_training(datamodule: AnomalibDataModule) -> int:
    """Return how many good test images lie in the folders of the training images."""
    training, test = _resolved(datamodule, "train_data"), subset_of(datamodule, "test_data")
    if test is None or "label_index" not in test.samples:
        return 0
    normal = {Path(path).resolve() for path in test.samples[test.samples.label_index == LabelName.NORMAL].image_path}
    folders = {path.parent for path in training}
    return sum(path.parent in folders for path in normal - training)


def _resolved(datamodule: AnomalibDataModule, name: str) -> set[Path]:
    subset = subset_of(datamodule, name)
    return set() if subset is None else {Path(path).resolve() for path in subset.samples.image_path}


def _require_visible(paths: Iterable[str | Path], remedy: str) -> None:
    """Refuse hidden files below the folder that all files share."""
    files = list(map(Path, paths))
    root = common_folder(files)
    hidden = [path for path in files if root is not None and len(files) > 1 and is_hidden(path, root)]
    if hidden:
        msg = (
            f"'{hidden[0]}' is one of {len(hidden)} files that end like images and show no parts (hidden ones, heat "
            f"maps of a prediction): {remedy}."
        )
        raise ValueError(msg)


def _require_right_masks(subsets: Sequence[AnomalibDataset]) -> None:
    """Refuse masks of another image, of another shape, without an anomaly, or that anomalib reads as larger ones."""
    rows = [_with_mask(subset) for subset in subsets if type(subset).__getitem__ is AnomalibDataset.__getitem__]
    pairs = {Path(image): Path(mask) for part in rows for image, mask in part[["image_path", "mask_path"]].to_numpy()}
    paired = next((subset for subset in subsets if isinstance(subset, PAIRED_BY_ORDER)), None)
    if paired is not None and pairs:
        require_same_pairs(paired, pairs)
    right = taken = 0
    for image, mask in pairs.items():
        meant, read, size = _areas(mask, mask.stat().st_mtime_ns)
        if distortion(mask) == TURNED:
            msg = f"The mask '{mask}' {TURNED}: {READ_BY_PARTS}."
            raise ValueError(msg)
        require_mask_of(image, turned_size(image), mask, size, meant)
        right, taken = right + meant, taken + read
    if abs(taken - right) > _TOLERANCE * right:
        msg = (
            f"anomalib takes every pixel of a mask that is not black for a defect, {taken} in all instead of {right} "
            f"('{min(pairs.values())}' and others have soft edges or are JPEG files): {READ_BY_PARTS}."
        )
        raise ValueError(msg)


@functools.cache
def _areas(mask: Path, _modified: int) -> tuple[int, int, tuple[int, int]]:
    """Return the anomalous pixels of a mask as it is meant, and as anomalib reads it, and its width and height."""
    meant = binary_mask(mask)
    return int(meant.sum()), int(np.count_nonzero(read_mask(mask))), (meant.shape[1], meant.shape[0])


def _with_mask(subset: AnomalibDataset) -> pd.DataFrame:
    samples = subset.samples
    is_file = samples.mask_path.map(lambda path: isinstance(path, str) and path != "" and Path(path).is_file())
    return samples[(samples.label_index == LabelName.ABNORMAL) & is_file.astype(bool)]


def _datasets(trainer: Trainer) -> list[Dataset]:
    """List data sets of the data loaders that a user hands to a run: public attributes hold them only later."""
    loops: dict[TrainerFn | None, list[Any]] = {
        TrainerFn.FITTING: [trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop],
        TrainerFn.VALIDATING: [trainer.validate_loop],
        TrainerFn.TESTING: [trainer.test_loop],
        TrainerFn.PREDICTING: [trainer.predict_loop],
    }
    sources = [loop._data_source.instance for loop in loops.get(trainer.state.fn, [])]  # noqa: SLF001
    loaders = [each for source in sources for each in (source if isinstance(source, list | tuple) else [source])]
    return [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]
