# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data that cannot be had."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
from anomalib.data import AnomalibDataModule, Folder, MVTecAD

from anople_anomalib.data import FewShot
from anople_anomalib.data.errors import ClearDataErrors, clear_error
from helpers.folders import write_category

pytestmark = pytest.mark.usefixtures("_no_download")


def raised_in_a_trainer(datamodule: AnomalibDataModule, do: Callable[[], None]) -> BaseException:
    """What a trainer with the callback ends with when ``do`` fails."""
    try:
        do()
    except BaseException as error:  # noqa: BLE001
        trainer = SimpleNamespace(datamodule=datamodule)
        try:
            ClearDataErrors().on_exception(trainer, None, error)
        except BaseException as clear:  # noqa: BLE001
            return clear
        return error
    pytest.fail("nothing was raised")


def test_a_category_that_is_neither_there_nor_to_be_downloaded(mvtec: Path) -> None:
    datamodule = MVTecAD(mvtec, category="cable")
    error = raised_in_a_trainer(datamodule, datamodule.prepare_data)
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error.__cause__, URLError)
    assert str(error) == (
        f"MVTecAD finds no data in '{mvtec / 'cable'}' and cannot download them (no network): check root and "
        f"category; the folders in '{mvtec}' are bottle."
    )


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    datamodule = MVTecAD(tmp_path)
    error = clear_error(TimeoutError("timed out"), datamodule)
    assert isinstance(error, FileNotFoundError)
    assert "cannot download them (timed out)" in str(error)


@pytest.mark.parametrize(("make", "said"), [(False, "there is no folder '{}'"), (True, "'{}' has no folders")])
def test_a_root_without_data(tmp_path: Path, make: bool, said: str) -> None:
    root = tmp_path / "elsewhere"
    if make:
        root.mkdir()
    for datamodule in (MVTecAD(root), FewShot(MVTecAD(root))):
        error = raised_in_a_trainer(datamodule, datamodule.prepare_data)
        assert isinstance(error, FileNotFoundError)
        assert f"MVTecAD finds no data in '{root / 'bottle'}'" in str(error)
        assert said.format(root) in str(error)


@pytest.mark.parametrize("wrap", [lambda datamodule: datamodule, FewShot])
def test_too_few_images_for_a_validation_set(
    tmp_path: Path, wrap: Callable[[AnomalibDataModule], AnomalibDataModule]
) -> None:
    root = write_category(tmp_path, "bottle", train_names=["0", "1", "2", "3"])
    datamodule = wrap(Folder("bottle", normal_dir=root / "bottle" / "train"))
    error = raised_in_a_trainer(datamodule, datamodule.setup)
    assert isinstance(error, ValueError)
    assert str(error) == (
        "Folder has too few images for a validation set that is split off the test set: set val_split_mode to 'none' "
        "(--data.val_split_mode none)."
    )


def test_folders_without_images(tmp_path: Path) -> None:
    datamodule = Folder("bottle", normal_dir=tmp_path)
    error = raised_in_a_trainer(datamodule, datamodule.setup)
    assert isinstance(error, ValueError)
    assert "Folder cannot be read: check that its folders are there, that the training set has normal" in str(error)
    assert str(tmp_path) in str(error)


def test_what_is_clear_or_comes_from_elsewhere_stays(mvtec: Path, tmp_path: Path) -> None:
    datamodule = Folder("bottle", normal_dir="good", root=tmp_path / "nowhere")
    error = raised_in_a_trainer(datamodule, datamodule.setup)
    assert isinstance(error, FileNotFoundError)
    assert error.__cause__ is None
    assert str(tmp_path / "nowhere" / "good") in str(error)

    def fail() -> None:
        msg = "not the data's fault"
        raise RuntimeError(msg)

    assert "not the data's fault" in str(raised_in_a_trainer(MVTecAD(mvtec), fail))
    assert "not the data's fault" in str(raised_in_a_trainer(None, fail))
