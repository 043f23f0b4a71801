# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Every measured number in a row of its own, for other programs: ``pandas.read_csv("values.csv")``."""

import pandas as pd

from .measured import Results
from .tables import COSTS

LONG_COLUMNS = ("method", "data", "setting", "category", "k", "seed", "metric", "value", "unit", "job_id")
PERCENT_UNIT = "percent"
UNITS = {
    "fit_seconds": "s",
    "fit_cpu_seconds": "s",
    "test_seconds": "s",
    "test_cpu_seconds": "s",
    "images_per_second": "1/s",
    "images_per_cpu_second": "1/s",
    "peak_memory_mb": "MB",
    "trainable_parameters": "1",
    "checkpoint_mb": "MB",
}
_NAMES = {"dataset": "data", "shots": "k", "k_shot": "k"}
_JOB = ["method", "dataset", "setting", "k_shot", "seed", "job_id"]


def long_form(results: Results) -> pd.DataFrame:
    """Return all metrics by category and all costs by job, whatever metrics a report shows.

    Args:
        results: The results.

    Returns:
        One row per number with ``LONG_COLUMNS``. ``category`` is empty for what a whole job costs. Means over
        categories or seeds are left to the reader.
    """
    metrics = results.values.rename(columns=_NAMES).assign(unit=PERCENT_UNIT)
    costs = [cost for cost in COSTS if cost in results.done]
    jobs = results.done.melt(id_vars=_JOB, value_vars=costs, var_name="metric").rename(columns=_NAMES)
    jobs["value"] = pd.to_numeric(jobs["value"])
    jobs = jobs.assign(category="", unit=jobs["metric"].map(UNITS)).dropna(subset=["value"])
    return pd.concat([metrics, jobs], ignore_index=True)[list(LONG_COLUMNS)]
