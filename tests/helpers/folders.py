# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Tiny data sets on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (90, 110)  # height and width of the images: neither square nor what a backbone takes


def write_category(
    root: Path,
    category: str = "bottle",
    train_names: Sequence[str] = ("000", "001", "002"),
    num_test: int = 2,
    grain: str = "",
) -> Path:
    """Write a category in MVTec's layout: gray images, the same for the same grain, and some with a bright square."""
    folder = root / category
    for name in train_names:
        _save(folder / "train" / "good" / f"{name}.png", _image(f"{grain}{name}"))
    for index in range(num_test):
        _save(folder / "test" / "good" / f"{index:03d}.png", _image(f"{grain}good {index}"))
        image, mask = _image(f"{grain}hole {index}"), np.zeros(SIZE, np.uint8)
        square = (slice(20 + 5 * index, 50 + 5 * index), slice(30, 60))
        image[square], mask[square] = (250, 240, 30), 255
        _save(folder / "test" / "hole" / f"{index:03d}.png", image)
        _save(folder / "ground_truth" / "hole" / f"{index:03d}_mask.png", mask)
    return root


def _image(name: str) -> np.ndarray:
    """An image that depends on its name alone."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(90, 140, (*SIZE, 3), dtype=np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
