# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The files of a run: no hidden ones, the right masks, and images that every reader shows the same."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset, PredictDataset
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize, Transform

from anople_anomalib.data.dataset_checks import SUBSETS, require_plain_subsets, tidy_subsets
from anople_anomalib.data.few_shot import FewShot
from anople_anomalib.data.image_reading import require_plain_images
from anople_anomalib.data.unreadable import forgiving
from anople_anomalib.utils.hidden_files import visible
from anople_anomalib.utils.scoped import replaced
from anople_anomalib.utils.transforms import flat


@contextmanager
def tidy_data(trainer: Trainer) -> Iterator[None]:
    """Give a run tidy data, see :mod:`anople_anomalib.data.dataset_checks`.

    A datamodule whose data sets had to change keeps the changed ones: it has made them itself, and would hand hidden
    files and wrong masks to the next model. A ``PredictDataset`` lists no hidden files within the block.

    Args:
        trainer: The trainer, after its datamodule is set up and before it makes its data loaders.

    Raises:
        ValueError: If an image would be distorted by anomalib's readers, has no mask of its name, or there is none.
    """
    datamodule, readable = getattr(trainer, "datamodule", None), not _forgives(trainer)
    with ExitStack() as changes:
        if isinstance(datamodule, AnomalibDataModule):
            if not isinstance(datamodule, FewShot):  # which has tidied every category: names are theirs alone
                vars(datamodule).update(tidy_subsets(datamodule))
            require_plain_subsets(
                datamodule, SUBSETS if trainer.state.fn == TrainerFn.FITTING else SUBSETS[1:], readable=readable
            )
        for dataset in _datasets(trainer):
            if isinstance(dataset, PredictDataset):
                changes.enter_context(replaced(dataset, "image_filenames", _visible_files(dataset)))
                require_plain_images(dataset.image_filenames, readable=readable)
            elif isinstance(dataset, AnomalibDataset):
                require_plain_images(dataset.samples.image_path.tolist(), readable=readable)
        if not readable:
            changes.enter_context(_forgiving_loaders(trainer))
        yield


def _forgives(trainer: Trainer) -> bool:
    """Return whether a run goes on without images that cannot be read.

    A prediction does. A test does not: metrics that somebody compares are never silently those of fewer images.
    """
    return trainer.state.fn == TrainerFn.PREDICTING


@contextmanager
def _forgiving_loaders(trainer: Trainer) -> Iterator[None]:
    """Let a test or a prediction leave out images that cannot be read, within the block."""
    loop = trainer.test_loop if trainer.state.fn == TrainerFn.TESTING else trainer.predict_loop
    source = loop._data_source  # noqa: SLF001  # the public attributes hold data loaders only once the run goes
    if isinstance(source.instance, LightningDataModule):
        make = getattr(source.instance, source.name)
        with replaced(source.instance, source.name, lambda: _forgiving(make())):
            yield
    else:
        with replaced(source, "instance", _forgiving(source.instance)):
            yield


def _forgiving(loaders: Any) -> Any:  # noqa: ANN401
    if isinstance(loaders, list | tuple):
        return [_forgiving(loader) for loader in loaders]
    return forgiving(loaders) if isinstance(loaders, DataLoader) else loaders


def _visible_files(dataset: PredictDataset) -> list:
    files = dataset.image_filenames
    shown = visible(files) if len(files) > 1 else files  # a single one was asked for by its name
    if not shown:
        msg = f"There are only hidden files to predict, such as '{files[0]}': give other images."
        raise ValueError(msg)
    return shown


def _datasets(trainer: Trainer) -> list[Dataset]:
    """List data sets of the data loaders that a user hands to a run, which has no datamodule then.

    The trainer's public attributes hold data loaders only once it has counted their batches.
    """
    loops: dict[TrainerFn | None, list[Any]] = {
        TrainerFn.FITTING: [trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop],
        TrainerFn.VALIDATING: [trainer.validate_loop],
        TrainerFn.TESTING: [trainer.test_loop],
        TrainerFn.PREDICTING: [trainer.predict_loop],
    }
    sources = [loop._data_source.instance for loop in loops.get(trainer.state.fn, [])]  # noqa: SLF001
    loaders = [each for source in sources for each in (source if isinstance(source, list | tuple) else [source])]
    return [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]


def require_plain_evaluation(datamodule: AnomalibDataModule, transform: Transform | None) -> None:
    """Refuse augmentations of test images, which neither the memory nor an exported model would see.

    Args:
        datamodule: The datamodule of a run.
        transform: The transform of the model's pre-processor; with a ``Resize`` of its own it takes the place of one
            that stands alone in a datamodule.

    Raises:
        ValueError: If there are such augmentations.
    """
    resizes = any(isinstance(part, Resize) for part in flat(transform))
    for name in ("val_augmentations", "test_augmentations"):
        augmentations = getattr(datamodule, name, None)
        if augmentations is None or (resizes and isinstance(augmentations, Resize)):
            continue
        msg = (
            f"{name} of {datamodule.name} ({augmentations}) would change the images of the evaluation, but neither the "
            "shots in the memory nor the images of an exported model: give train_augmentations for training alone "
            "(augmentations sets all three), or put it into the transform of the model's pre-processor."
        )
        raise ValueError(" ".join(msg.split()))


def require_whole_images(datamodule: AnomalibDataModule) -> None:
    """Refuse a collate function of its own, such as the one by which anomalib's tiled ensemble cuts tiles.

    Args:
        datamodule: The datamodule of a training run.

    Raises:
        ValueError: If it has one.
    """
    collate = getattr(datamodule, "external_collate_fn", None)
    if collate is not None:
        msg = (
            f"{datamodule.name} changes images while it collates them ({type(collate).__name__}, as anomalib's tiled "
            "ensemble does): the shots in the memory would not be the images that are tested. Cut the images into "
            "tiles on disk, or train on whole images."
        )
        raise ValueError(msg)
