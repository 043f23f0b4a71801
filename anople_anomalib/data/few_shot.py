# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A few normal images of one or more categories of any anomalib image datamodule.

Every model that is trained on a :class:`FewShot` with the same arguments sees the same images, whatever the model,
the machine and the order of the files. Several categories make the multi-class setting: one model for all of them.

Example:
    One category, two shots::

        >>> from anomalib.data import MVTecAD
        >>> from anople_anomalib.data import FewShot
        >>> datamodule = FewShot(MVTecAD(category="bottle"), k_shot=2)  # doctest: +SKIP

    One model for two categories, from the command line::

        anomalib train --model Patchcore --data FewShot --data.datamodule MVTecAD --data.categories "[bottle,cable]"
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.errors import MisMatchError
from anomalib.utils.attrs import get_nested_attr
from torch.utils.data import DataLoader

from anople_anomalib.utils.arguments import K_SHOT, check

from .dataset_checks import (
    OwnDataModule,
    check_datamodule,
    require_apart,
    require_clear_labels,
    require_training_images,
    test_set_of,
)
from .errors import clear_error
from .sampling import (
    check_sample_list,
    draw_normal_images,
    draw_validation_images,
    other_samples,
    read_sample_list,
    write_sample_list,
)
from .wrapping import build_datamodule, choose_categories, split_by_category

logger = logging.getLogger(__name__)

SAMPLES_FILE = "few_shot_samples.json"
"""Name of the drawn list, which is written next to the results of a training run."""


class FewShot(OwnDataModule):
    """Wrapper of a datamodule whose training set holds k normal images of every category.

    The test set of a category is its whole test set; the validation set is made as the wrapped datamodule makes it, and
    where it makes none, other good training images stand in for it, so that thresholds never come from the shots.
    Where the wrapped datamodule splits at random and has no seed, it gets a fixed one, so that every draw of shots is
    tested on the same images. Augmentations are those of the wrapped datamodule.

    Args:
        datamodule: Name of an anomalib datamodule (``"MVTecAD"``), a mapping with ``class_path`` and ``init_args``, or
            an instance, which stays as it is.
        categories: Names of categories; ``"all"`` for all that the data set has; ``None`` for the one that
            ``datamodule`` is set to.
        k_shot: Number of normal training images per category; ``None`` for all.
        seed: Seed of the draw.
        samples: The training images of every category, as a mapping from categories to file names (or stems), or as
            the path of a JSON or YAML file that holds one. Wins over ``k_shot`` and ``seed``.
        train_batch_size: Training batch size; ``None`` for that of ``datamodule``.
        eval_batch_size: Validation and test batch size; ``None`` for that of ``datamodule``.
        num_workers: Number of worker processes of a data loader; ``None`` for that of ``datamodule``.

    Attributes:
        categories: Names of the categories.
        k_shot: Number of shots per category; ``None`` if it is unlimited, or differs between the lists of ``samples``.
        drawn_samples: Names of the training images, by category; empty before ``setup``.

    Raises:
        ValueError: If an argument is wrong; the message says which and why.
        TypeError: If ``datamodule`` is something else.

    Example:
        >>> from anople_anomalib.data import FewShot
        >>> datamodule = FewShot("SampleTextures", categories=["brick", "gravel"], k_shot=1)
        >>> datamodule.prepare_data()
        >>> datamodule.setup()
        >>> len(datamodule.train_data)
        2
    """

    seed: int  # never None, as it may be in anomalib

    def __init__(
        self,
        datamodule: AnomalibDataModule | dict[str, Any] | str,
        categories: list[str] | str | None = None,
        k_shot: int | None = 1,
        seed: int = 0,
        samples: dict[str, list[str]] | Path | str | None = None,
        train_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        check(K_SHOT, k_shot=k_shot)
        wrapped = build_datamodule(datamodule)
        super().__init__(
            train_batch_size=wrapped.train_batch_size if train_batch_size is None else train_batch_size,
            eval_batch_size=wrapped.eval_batch_size if eval_batch_size is None else eval_batch_size,
            num_workers=wrapped.num_workers if num_workers is None else num_workers,
            train_augmentations=wrapped.train_augmentations,
            val_augmentations=wrapped.val_augmentations,
            test_augmentations=wrapped.test_augmentations,
            test_split_mode=wrapped.test_split_mode,
            test_split_ratio=wrapped.test_split_ratio,
            val_split_mode=wrapped.val_split_mode,
            val_split_ratio=wrapped.val_split_ratio,
            seed=seed,
        )
        self._name = f"FewShot-{wrapped.name}"
        self.categories = choose_categories(wrapped, categories)
        self.category = "+".join(self.categories)
        self._wrapped = split_by_category(wrapped, self.categories)
        self.samples = _read_samples(samples, self.categories)
        lengths = {k_shot} if self.samples is None else {len(names) for names in self.samples.values()}
        self.k_shot = lengths.pop() if len(lengths) == 1 else None
        self.drawn_samples: dict[str, list[str]] = {}
        self._category_of: dict[str, str] = {}
        self._others: AnomalibDataset | None = None  # good training images that are no shots

    @property
    def name(self) -> str:  # type: ignore[override]  # a property as in anomalib, a plain attribute in Lightning
        """Name of the wrapped datamodule behind ``FewShot-``; the engine's folder for the results."""
        return self._name

    def prepare_data(self) -> None:
        """Let the wrapped datamodule download or write its files."""
        try:
            for wrapped in self._wrapped.values():
                wrapped.prepare_data()
        except URLError as error:  # say which data are missing
            raise clear_error(error, wrapped) from error

    def setup(self, stage: str | None = None) -> None:
        """Set up the data; beside a trainer's results, write the list of the drawn images."""
        super().setup(stage)
        if self.trainer is not None and self.trainer.is_global_zero:
            write_sample_list(Path(self.trainer.default_root_dir) / SAMPLES_FILE, self.drawn_samples)

    def category_of(self, image_path: str | Path) -> str:
        """Return the category of an image, given its path as in a batch's ``image_path``; a KeyError of others."""
        return self._category_of[str(image_path)]

    def _setup(self, stage: str | None = None) -> None:
        """Set up every category and join their subsets."""
        self._category_of, drawn = {}, {}
        others: list[AnomalibDataset] = []
        subsets: dict[str, list[AnomalibDataset]] = {"train_data": [], "val_data": [], "test_data": []}
        for category, wrapped in self._wrapped.items():
            _set_up(wrapped, category, stage)
            if not isinstance(wrapped, OwnDataModule):
                require_training_images(wrapped)
                require_apart(wrapped)
                check_datamodule(wrapped)
            wanted = None if self.samples is None else self.samples[category]
            shots, drawn[category] = draw_normal_images(wrapped.train_data, self.k_shot, self.seed, category, wanted)
            logger.info("Training images of %s: %s", category, ", ".join(drawn[category]))
            rest = other_samples(wrapped.train_data, shots)
            others.append(draw_validation_images(wrapped.train_data, rest, self.seed))
            parts = {"train_data": shots, "val_data": vars(wrapped).get("val_data"), "test_data": test_set_of(wrapped)}
            for name, part in parts.items():
                if part is not None:
                    subsets[name].append(part)
            for part in (*parts.values(), others[-1]):
                names = [] if part is None else part.samples.image_path.astype(str)
                self._category_of.update(dict.fromkeys(names, category))
        self.drawn_samples = drawn
        for name, joined in subsets.items():
            if joined:
                setattr(self, name, _join(joined, self.category))
        self._others = _join(others, self.category) if all(map(len, others)) else None

    def val_dataloader(self) -> Any:  # as in anomalib
        """Return the loader of the validation images, or of other good training images where there are none."""
        good = None if "val_data" in vars(self) else self.other_good_parts()
        if good is None:
            return super().val_dataloader()
        number = len(self._others or ())
        logger.info("There are no validation images: thresholds come from %d other good training images.", number)
        return good

    def other_good_parts(self) -> DataLoader | None:
        """Return the loader of good training images that are no shots, 32 of a category at most, or ``None``."""
        if self._others is None:
            return None
        others = copy.copy(self._others)
        transform = get_nested_attr(self, "trainer.model.pre_processor.transform", None)
        others.augmentations = self.val_augmentations
        if transform is not None:
            self._update_subset_augmentations(others, self.val_augmentations, transform)
        return DataLoader(
            others, batch_size=self.eval_batch_size, num_workers=self.num_workers, collate_fn=others.collate_fn
        )

    def _create_test_split(self) -> None:
        """Do nothing: the wrapped datamodule made its test set."""

    def _create_val_split(self) -> None:
        """Do nothing: the wrapped datamodule made its validation set."""


def _set_up(wrapped: AnomalibDataModule, category: str, stage: str | None) -> None:
    """Set up a wrapped datamodule; if that fails, say for which category."""
    require_clear_labels(wrapped)
    try:
        wrapped.setup(stage)
    except (OSError, RuntimeError, TypeError, ValueError, LookupError, MisMatchError) as error:
        if (
            isinstance(error, TypeError | ValueError | MisMatchError)
            and (clear := clear_error(error, wrapped)) is not error
        ):
            raise clear from error
        msg = (
            f"Category '{category}' of {wrapped.name} cannot be read; check that its folder is there and that every "
            f"anomalous image has a mask ({type(error).__name__}: {error})"
        )
        raise ValueError(msg) from error


def _join(parts: Sequence[AnomalibDataset], category: str) -> AnomalibDataset:
    """Join the same subset of several categories; if one part has no masks, none is read for the others either."""
    joint = copy.copy(parts[0])  # of the same class, with its augmentations
    samples = pd.concat([part.samples for part in parts], ignore_index=True)
    has_masks = all(part.task == TaskType.SEGMENTATION for part in parts)
    # anomalib's data sets keep their task there, and a copy of the frame may lose it
    samples.attrs["task"] = (TaskType.SEGMENTATION if has_masks else TaskType.CLASSIFICATION).value
    if "mask_path" in samples:  # pandas 3 makes numbers of paths that are missing
        samples["mask_path"] = samples.mask_path.where(samples.mask_path.notna(), "")
    joint.samples = samples
    joint.category = category
    return joint


def _read_samples(
    samples: Mapping[str, Sequence[str]] | Path | str | None, categories: Sequence[str]
) -> dict[str, list[str]] | None:
    """Read explicit sample lists and check that every category has one."""
    if samples is None:
        return None
    lists = read_sample_list(samples) if isinstance(samples, str | Path) else check_sample_list(samples)
    missing = [category for category in categories if category not in lists]
    if missing:
        msg = f"The sample list has no entry for category '{missing[0]}'; it has {', '.join(lists)}."
        raise ValueError(msg)
    return {category: lists[category] for category in categories}
