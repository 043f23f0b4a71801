# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Fixtures of the integration tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anople_anomalib.data import SampleTextures
from helpers.folders import write_category

SHOWN = ("good/003", "crack/003", "moss/004")  # in notebooks


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tiny data set in MVTec's layout: ``bottle`` with eight normal training images. Not to be changed."""
    folder = tmp_path_factory.mktemp("images")
    return write_category(folder, train_names=[f"{number:03d}" for number in range(8)], num_test=4)


@pytest.fixture(scope="session")
def few_textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for ``ANOPLE_CACHE`` with the bricks of SampleTextures, of whose test images a third is left."""
    cache = tmp_path_factory.mktemp("textures")
    samples = SampleTextures(cache / "sample_textures", "brick")
    samples.prepare_data()
    for folder in ("test", "ground_truth"):
        for file in (samples.root / "brick" / folder).rglob("*.png"):
            number = file.stem[:3]
            if int(number) > 1 and f"{file.parent.name}/{number}" not in SHOWN:
                file.unlink()
    return cache


@pytest.fixture(scope="module")
def _quiet_process() -> Iterator[None]:
    """What anomalib's command line sets is put back, and tiny images get a single thread."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    kept, threads = {name: os.environ.get(name) for name in names}, torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)
    for name, value in kept.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
