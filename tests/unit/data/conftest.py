# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Fixtures of the tests of the datamodules."""

from pathlib import Path

import pytest

from anople_anomalib.data import SampleTextures


@pytest.fixture(scope="session")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root folder with the sample textures of two categories."""
    root = tmp_path_factory.mktemp("textures")
    for category in ("brick", "gravel"):
        SampleTextures(root, category).prepare_data()
    return root
