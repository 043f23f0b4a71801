# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Clear error messages where the data of a datamodule cannot be had."""

import traceback
from pathlib import Path
from types import TracebackType
from urllib.error import URLError

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from lightning.pytorch import Callback, LightningModule, Trainer

_HOOKS = {"prepare_data", "setup"}


class ClearDataErrors(Callback):
    """Callback that tells in a clear error message why a datamodule could not prepare or set up its data."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Raise a clear error in place of an exception of the datamodule.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: What was raised.

        Raises:
            FileNotFoundError: If the data are neither there nor to be downloaded.
            ValueError: If the data are not as the datamodule wants them.
        """
        del pl_module
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, AnomalibDataModule) and _raised_by(datamodule, exception.__traceback__):
            clear = clear_error(exception, datamodule)
            if clear is not exception:
                raise clear from exception


def clear_error(error: BaseException, datamodule: AnomalibDataModule) -> BaseException:
    """Explain an exception of a datamodule.

    Args:
        error: What its ``prepare_data`` or ``setup`` raised.
        datamodule: The datamodule.

    Returns:
        An exception whose message says what is wrong and what to do, or the same one if it is clear already or has
        nothing to do with the data.
    """
    name = type(datamodule).__name__
    if isinstance(error, URLError):
        # anomalib downloads what it does not find, so the folder is not there
        folder = data_root(datamodule) / datamodule.category
        return FileNotFoundError(
            f"{name} finds no data in '{folder}' and cannot download them ({error.reason}): check root and "
            f"category; {_categories_in(folder.parent)}."
        )
    if isinstance(error, ValueError) and _has_too_few_images(datamodule):
        return ValueError(
            f"{name} has too few images for a validation set that is split off the test set: set "
            "val_split_mode to 'none' (--data.val_split_mode none)."
        )
    if isinstance(error, RuntimeError | TypeError | LookupError):
        return ValueError(
            f"{name} cannot be read: check that its folders are there, that the training set has normal "
            f"images and that every anomalous image has a mask ({type(error).__name__}: {error})."
        )
    return error


def data_root(datamodule: AnomalibDataModule) -> Path:
    """Return the folder of the categories' folders, whether or not it exists."""
    return Path(getattr(datamodule, "split_root", None) or getattr(datamodule, "root", None) or ".")


def _has_too_few_images(datamodule: AnomalibDataModule) -> bool:
    test_data = getattr(datamodule, "test_data", None)
    return datamodule.val_split_mode == ValSplitMode.FROM_TEST and test_data is not None and len(test_data) == 0


def _categories_in(root: Path) -> str:
    """Return the part of an error message that names the folders there are."""
    if not root.is_dir():
        return f"there is no folder '{root}'"
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    return f"the folders in '{root}' are {', '.join(folders)}" if folders else f"'{root}' has no folders"


def _raised_by(datamodule: AnomalibDataModule, trace: TracebackType | None) -> bool:
    """Return whether an exception comes out of the hooks of a datamodule."""
    return any(
        frame.f_code.co_name in _HOOKS and frame.f_locals.get("self") is datamodule
        for frame, _ in traceback.walk_tb(trace)
    )
