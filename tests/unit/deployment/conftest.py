# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the tests of deployment share."""

from pathlib import Path

import pytest

from helpers.folders import write_category


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tiny data set that the tests of a file only read."""
    return write_category(tmp_path_factory.mktemp("data"))
