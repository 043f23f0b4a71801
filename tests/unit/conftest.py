# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Fixtures of the unit tests."""

from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.backbones.clip_loading import load_backbone
from helpers.folders import write_category
from helpers.miniature import MINIATURE, build


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> Iterator[None]:
    """Tensors are so small here that threads only wait for each other."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Random numbers of a test depend on nothing that ran before, and do not show after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def open_clip_model() -> open_clip.CLIP:
    """The miniature CLIP as open_clip builds it; not to be changed."""
    return build().requires_grad_(requires_grad=False)


@pytest.fixture
def clip() -> FrozenCLIP:
    """The miniature CLIP, frozen."""
    return load_backbone(MINIATURE, "random").clip


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """Root of a tiny data set in MVTec's layout, with the category ``bottle``."""
    return write_category(tmp_path / "data")
