# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Ray, where it is asked for."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

RETRIES = 1
"""How often a job runs again whose worker has died; a job that fails by itself is a row with its error at once."""


def import_ray() -> ModuleType:
    """Import Ray, which then tells nobody that it is used, and gives up a job that takes too much memory.

    Raises:
        ImportError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # of a worker that was ended to save memory: for ever
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        msg = '--engine ray needs Ray: pip install "ray[data]" pyarrow.'
        raise ImportError(msg) from error
    return ray


@contextmanager
def running(ray: ModuleType, address: str | None = None) -> Iterator[None]:
    """Use the cluster that this process uses already, or one at an address, see :func:`ray.init`, until the end."""
    if ray.is_initialized():
        yield
        return
    with ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING):
        yield
