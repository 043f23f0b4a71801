# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The shots of a training set of anomalib: k of its normal images."""

from collections.abc import Sequence

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName

from .sampling import draw_shots, match_samples, relative_names


def normal_samples(dataset: AnomalibDataset) -> pd.DataFrame:
    """Return the rows of a data set's normal images; all rows where it does not label them."""
    samples = dataset.samples
    return samples[samples.label_index == LabelName.NORMAL] if "label_index" in samples else samples


def draw_normal_images(
    dataset: AnomalibDataset,
    k_shot: int | None,
    seed: int,
    category: str,
    wanted: Sequence[str] | None = None,
) -> tuple[AnomalibDataset, list[str]]:
    """Draw shots from the normal images of a training set, independently of the order of its files.

    Args:
        dataset: A training set of anomalib.
        k_shot: Number of shots; ``None`` for all.
        seed: Seed of the draw.
        category: Category, part of the seed and named in errors.
        wanted: The shots' names, or file names or stems, in place of a draw.

    Returns:
        The data set of the shots alone, and their names relative to the folder that all normal images share.

    Raises:
        ValueError: If there are no normal images, fewer than shots, or not those that are wanted.
    """
    samples = normal_samples(dataset)
    names = relative_names(samples.image_path)
    if not names:
        msg = f"The training set of category '{category}' has no normal images: at least one is needed."
        raise ValueError(msg)
    chosen = draw_shots(names, k_shot, seed, category) if wanted is None else match_samples(names, wanted, category)
    return dataset.subsample(samples.index[chosen].tolist()), [names[index] for index in chosen]


def other_normal_images(dataset: AnomalibDataset, shots: AnomalibDataset, seed: int, most: int = 32) -> AnomalibDataset:
    """Return normal training images that are no shots, at most so many, with empty masks for pixel thresholds.

    Args:
        dataset: The whole training set.
        shots: The shots.
        seed: Seed of the draw where there are more.
        most: Number of images, at most.
    """
    samples = normal_samples(dataset)
    samples = samples[~samples.image_path.isin(shots.samples.image_path)]
    names = relative_names(samples.image_path)
    chosen = draw_shots(names, min(most, len(names)), seed, "validation") if names else []
    others = dataset.subsample(samples.index[chosen].tolist())
    others.samples.attrs["task"] = TaskType.SEGMENTATION.value
    return others
