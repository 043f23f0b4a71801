# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The files of a run: no hidden ones, the right masks, and images that are the same for every reader."""

from pathlib import Path

from anomalib.data import AnomalibDataModule, AnomalibDataset, PredictDataset
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset

from anople_anomalib.data.hidden_files import visible
from anople_anomalib.data.image_reading import require_plain_images
from anople_anomalib.data.tidying import SUBSETS, require_plain_subsets, tidy_subsets


class TidyData:
    """A loan of tidy data to a trainer, see :mod:`anople_anomalib.data.tidying`.

    While it lasts, the datamodule holds copies of its data sets where they had to change, and a ``PredictDataset``
    lists no hidden files. :meth:`give_back` restores both.

    Args:
        trainer: The trainer, after its datamodule is set up and before it makes its data loaders.

    Raises:
        ValueError: If an image would be distorted by anomalib's readers, has no mask of its name, or there is none.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._datamodule: AnomalibDataModule | None = None
        self._subsets: dict[str, AnomalibDataset] = {}
        self._lists: list[tuple[PredictDataset, list[Path]]] = []
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, AnomalibDataModule):
            self._lend(datamodule, SUBSETS if trainer.state.fn == TrainerFn.FITTING else SUBSETS[1:])
        for dataset in _datasets(trainer):
            self._lend_list(dataset)

    def give_back(self) -> None:
        """Restore the datamodule's data sets and the lists of files."""
        if self._datamodule is not None:
            vars(self._datamodule).update(self._subsets)
        for dataset, files in self._lists:
            dataset.image_filenames = files
        self._datamodule, self._subsets, self._lists = None, {}, []

    def _lend(self, datamodule: AnomalibDataModule, names: tuple[str, ...]) -> None:
        tidied = tidy_subsets(datamodule)
        self._datamodule = datamodule
        self._subsets = {name: getattr(datamodule, name) for name in tidied}
        vars(datamodule).update(tidied)
        try:
            require_plain_subsets(datamodule, names)
        except Exception:
            self.give_back()
            raise

    def _lend_list(self, dataset: Dataset) -> None:
        if isinstance(dataset, AnomalibDataset):
            require_plain_images(dataset.samples.image_path.tolist())
        if not isinstance(dataset, PredictDataset):
            return
        files = dataset.image_filenames
        shown = visible(files) if len(files) > 1 else files  # a single one was asked for by its name
        if not shown:
            msg = f"There are only hidden files to predict, such as '{files[0]}': give other images."
            raise ValueError(msg)
        require_plain_images(shown)
        self._lists.append((dataset, files))
        dataset.image_filenames = shown


def _datasets(trainer: Trainer) -> list[Dataset]:
    """Data sets of the data loaders that a user hands to a run, which has no datamodule then.

    The trainer's public attributes hold data loaders only once it has counted their batches.
    """
    loops = {
        TrainerFn.FITTING: [trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop],
        TrainerFn.VALIDATING: [trainer.validate_loop],
        TrainerFn.TESTING: [trainer.test_loop],
        TrainerFn.PREDICTING: [trainer.predict_loop],
    }
    sources = [loop._data_source.instance for loop in loops.get(trainer.state.fn, [])]  # noqa: SLF001
    loaders = [each for source in sources for each in (source if isinstance(source, list | tuple) else [source])]
    return [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]
