# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data sets without hidden files, with the right masks, and with images that every reader shows the same."""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName

from anople_anomalib.utils.hidden_files import common_folder, is_hidden

from .errors import data_root
from .image_reading import require_plain_images
from .masks import is_copy, readable_mask
from .pairing import PAIRED_BY_ORDER, folders_of, pair_masks

logger = logging.getLogger(__name__)

SUBSETS = ("train_data", "val_data", "test_data")


def tidy_subsets(datamodule: AnomalibDataModule) -> dict[str, AnomalibDataset]:
    """Leave hidden files out of a datamodule's data sets, pair masks by name and folder, and make them readable.

    Args:
        datamodule: A datamodule that is set up; it stays as it is.

    Returns:
        A changed copy of every data set that has to change, by its name in the datamodule.

    Raises:
        ValueError: If an image has no mask of its name, or a mask cannot be read; the message names it.
    """
    subsets = {name: subset for name in SUBSETS if _has_samples(subset := getattr(datamodule, name, None))}
    roots = _roots(datamodule, subsets)
    masks = _right_masks(subsets, roots)
    changed = {name: _tidy(subset, roots, masks) for name, subset in subsets.items()}
    return {name: subset for name, subset in changed.items() if subset is not subsets[name]}


def require_plain_subsets(
    datamodule: AnomalibDataModule, names: tuple[str, ...] = SUBSETS, *, readable: bool = True
) -> None:
    """Refuse images that anomalib's readers would distort.

    Args:
        datamodule: A datamodule that is set up.
        names: Its data sets to look at.
        readable: Whether files that cannot be read at all are refused, too.

    Raises:
        ValueError: If there is one, see :func:`require_plain_images`.
    """
    subsets = (getattr(datamodule, name, None) for name in names)
    paths = [path for subset in subsets if _has_samples(subset) for path in subset.samples.image_path]
    require_plain_images(list(dict.fromkeys(paths)), readable=readable)


def _has_samples(dataset: object) -> TypeGuard[AnomalibDataset]:
    return isinstance(dataset, AnomalibDataset) and len(dataset.samples) > 0


def _roots(datamodule: AnomalibDataModule, subsets: Mapping[str, AnomalibDataset]) -> list[Path]:
    """Return folders of a datamodule that the user has named, hidden or not; else what all images share."""
    root = data_root(datamodule)
    named = [root]
    for attribute in ("normal_dir", "abnormal_dir", "normal_test_dir", "mask_dir"):
        folders = getattr(datamodule, attribute, None) or []
        named += [root / folder for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    if getattr(datamodule, "root", None) is None:
        paths = [path for subset in subsets.values() for path in subset.samples.image_path]
        named += [folder for folder in [common_folder(paths)] if folder is not None]
    return [folder.resolve() for folder in named] + [folder.absolute() for folder in named]


def _hidden(path: str | Path, roots: list[Path]) -> bool:
    """Return whether a path is hidden below the deepest of the folders that it is in."""
    absolute = Path(path).absolute()
    inside = [root for root in roots if absolute.is_relative_to(root)]
    return bool(inside) and is_hidden(absolute, max(inside, key=lambda root: len(root.parts)))


def _right_masks(subsets: Mapping[str, AnomalibDataset], roots: list[Path]) -> dict[str, str]:
    """Find the mask of every anomalous image of data sets that anomalib pairs by order.

    A data set that has been tidied before keeps the copies of masks that it was given then.
    """
    paired = [subset for subset in subsets.values() if isinstance(subset, PAIRED_BY_ORDER)]
    if not paired:
        return {}
    rows = pd.concat([_with_mask(subset.samples) for subset in paired])
    rows = rows[~rows.mask_path.map(is_copy).astype(bool)]  # of no type without rows
    images = [Path(path) for path in dict.fromkeys(rows.image_path) if not _hidden(path, roots)]
    masks = [Path(path) for path in dict.fromkeys(rows.mask_path) if not _hidden(path, roots)]
    return {str(image): str(mask) for image, mask in pair_masks(images, masks, folders_of(paired[0])).items()}


def _with_mask(samples: pd.DataFrame) -> pd.DataFrame:
    is_file = samples.mask_path.map(lambda path: isinstance(path, str) and path != "")
    return samples[(samples.label_index == LabelName.ABNORMAL) & is_file]


def _tidy(subset: AnomalibDataset, roots: list[Path], masks: Mapping[str, str]) -> AnomalibDataset:
    """Return the data set itself, or a copy with other samples."""
    samples = subset.samples
    hidden = samples.image_path.map(lambda path: _hidden(path, roots))
    tidied = samples[~hidden].copy()
    if hidden.any():
        logger.warning("%d hidden files are no images: %s", hidden.sum(), ", ".join(samples.image_path[hidden][:3]))
    for index, row in _with_mask(tidied).iterrows():
        mask = masks.get(str(row.image_path), row.mask_path)
        if mask != row.mask_path:
            logger.warning("The mask of '%s' is '%s', by name and folder.", row.image_path, mask)
        tidied.loc[index, "mask_path"] = _readable(mask, subset)
    if tidied.equals(samples):
        return subset
    tidied.attrs.update(samples.attrs)
    changed = copy.copy(subset)
    changed.samples = tidied.reset_index(drop=True)
    return changed


def _readable(mask: str, subset: AnomalibDataset) -> str:
    """Find a mask that anomalib reads as it is meant; a data set that reads masks in its own way keeps its own."""
    if type(subset).__getitem__ is not AnomalibDataset.__getitem__ or not Path(mask).is_file():
        return mask
    readable = readable_mask(mask)
    return mask if readable == Path(mask).absolute() else str(readable)
