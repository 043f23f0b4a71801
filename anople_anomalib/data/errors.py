# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Clear error messages where the data of a datamodule cannot be had."""

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.error import URLError

import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset, PredictDataset
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import ValSplitMode
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from anople_anomalib.utils.arguments import did_you_mean
from anople_anomalib.utils.batches import datamodule_of
from anople_anomalib.utils.files import is_hidden

from .dataset_checks import PANDAS_3, SUBSETS, require_clear_labels
from .image_reading import open_image
from .masks import crosswise, masks_on_disk, pair_masks

_HOOKS = {"prepare_data", "setup"}
_READERS = ("read_image", "read_mask")


class ClearDataErrors(Callback):
    """Callback that tells in a clear error message why data could not be prepared, set up or read."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Raise a clear error in place of an exception of the datamodule, or of a reader that names no file.

        Raises:
            FileNotFoundError: If the data are neither there nor to be downloaded.
            ValueError: If the data are not as the datamodule wants them, or an image is damaged.
        """
        del pl_module
        datamodule = datamodule_of(trainer)
        if isinstance(datamodule, AnomalibDataModule) and _raised_by(datamodule, exception.__traceback__):
            clear = clear_error(exception, datamodule)
            if clear is not exception:
                raise clear from exception
        elif _raised_by_reading(exception):
            try:
                for path in _files_of(trainer):
                    open_image(path)  # again, now by a reader that names it
            except (OSError, ValueError) as clear:
                raise clear from exception


def clear_error(error: BaseException, datamodule: AnomalibDataModule) -> BaseException:
    """Explain an exception of a datamodule's ``prepare_data`` or ``setup``.

    Returns:
        An exception whose message names fault and remedy, or the same one if it is clear already or has
        nothing to do with the data.
    """
    name = type(datamodule).__name__
    if isinstance(error, URLError | TimeoutError):
        # anomalib downloads data that it does not find, so the folder is not there
        folder = data_root(datamodule) / datamodule.category
        reason = error.reason if isinstance(error, URLError) else error
        return FileNotFoundError(
            f"{name} finds no data in '{folder}' and cannot download them ({reason}): check root and "
            f"category; {_categories_in(folder)}."
        )
    test_data = vars(datamodule).get("test_data")
    if (
        isinstance(error, ValueError)
        and datamodule.val_split_mode == ValSplitMode.FROM_TEST
        and test_data is not None
        and len(test_data) == 0
    ):
        return ValueError(
            f"{name} has too few images for a validation set that is split off the test set: set "
            "val_split_mode to 'none' (--data.val_split_mode none)."
        )
    if isinstance(error, TypeError) and PANDAS_3:
        return ValueError(
            f"anomalib cannot read {name} with pandas {pd.__version__} ({error}): pip install 'pandas<3', or read "
            "folders in the layout of MVTec AD by --data Parts."
        )
    if isinstance(error, ValueError | TypeError | MisMatchError) and (found := _wrong_file(datamodule)) is not None:
        return ValueError(f"{name} cannot be read: {found}")
    if isinstance(error, LookupError):
        require_clear_labels(datamodule)
    if isinstance(error, RuntimeError | TypeError | LookupError | MisMatchError):
        return ValueError(
            f"{name} cannot be read: check that its folders are there, that the training set has normal "
            f"images and that every anomalous image has a mask ({type(error).__name__}: {error})."
        )
    return error


def data_root(datamodule: AnomalibDataModule) -> Path:
    """Return the folder of the categories' folders, whether or not it exists."""
    return Path(vars(datamodule).get("split_root") or vars(datamodule).get("root") or ".")


def _wrong_file(datamodule: AnomalibDataModule) -> str | None:
    """Name the file because of which anomalib finds no pairs of images and masks, if it is a file."""
    root = data_root(datamodule)
    images, masks, folders = masks_on_disk(datamodule, root.resolve())
    hidden = [file for file in (*images, *masks) if is_hidden(file, root.resolve())]
    if hidden:
        return (
            f"'{hidden[0]}' is one of {len(hidden)} files that end like images and show no parts (hidden ones, heat "
            "maps of a prediction), which upset its pairs of images and masks: remove them."
        )
    if not masks:
        return None
    try:
        pairs = pair_masks(images, masks, folders)
    except ValueError as error:
        return str(error)
    if spare := set(masks) - set(pairs.values()):
        return f"the mask '{min(spare)}' belongs to no image."
    return crosswise(dict(zip(sorted(images), sorted(masks), strict=True)), pairs)


def _categories_in(missing: Path) -> str:
    """Return the part of an error message that names the folders beside one that is not there."""
    root = missing.parent
    if not root.is_dir():
        return f"there is no folder '{root}'"
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    meant = did_you_mean(missing.name, folders)
    return f"the folders in '{root}' are {', '.join(folders)}{meant}" if folders else f"'{root}' has no folders"


def _raised_by(datamodule: AnomalibDataModule, trace: TracebackType | None) -> bool:
    """Return whether an exception comes out of the hooks of a datamodule."""
    return any(
        frame.f_code.co_name in _HOOKS and frame.f_locals.get("self") is datamodule
        for frame, _ in traceback.walk_tb(trace)
    )


def _raised_by_reading(error: BaseException) -> bool:
    """Return whether a reader of anomalib raised an exception, here or in a worker, which reports its trace."""
    here = any(frame.f_code.co_name in _READERS for frame, _ in traceback.walk_tb(error.__traceback__))
    return here or any(f"in {reader}\n" in str(error) for reader in _READERS)


def _files_of(trainer: Trainer) -> Iterator[str]:
    """Yield images and masks of a run, as far as they are known."""
    datamodule = datamodule_of(trainer)
    datasets = [] if datamodule is None else [vars(datamodule).get(name) for name in SUBSETS]
    loaders = (trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders, trainer.predict_dataloaders)
    for loader in loaders:
        several = loader if isinstance(loader, list) else [loader]
        datasets += [each.dataset for each in several if isinstance(each, DataLoader)]
    for dataset in datasets:
        if isinstance(dataset, AnomalibDataset):
            yield from dataset.samples.image_path
            yield from (path for path in dataset.samples.get("mask_path", ()) if isinstance(path, str) and path)
        elif isinstance(dataset, PredictDataset):
            yield from map(str, dataset.image_filenames)
