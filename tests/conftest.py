# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Settings and fixtures for all tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network, nor may the processes that it starts
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # a process per core: threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the project's source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Function that runs Python in a process of its own.

    ``run_python(*arguments, python=..., path=..., cwd=...)`` returns the completed process with its output as text.
    ``path`` is put first on the module search path; ``python`` is the interpreter, by default that of the tests.
    """

    def run(
        *arguments: str | Path, python: Path | None = None, path: Path | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        if path is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), environment.get("PYTHONPATH")]))
        command = [str(python or sys.executable), *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anomalib's download of MVTec AD fails at once, as on a machine without a network."""

    def fail(*_args: object) -> None:
        msg = "no network"
        raise URLError(msg)

    monkeypatch.setattr("anomalib.data.datamodules.image.mvtecad.download_and_extract", fail)
