# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The folder of a comparison: one row per job, written when the job ends, and the plan of all jobs.

A row is added by writing the whole table to a temporary file that then takes the place of the old one. So a run that
is killed leaves a complete table, and rows with different metrics widen the header.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
from filelock import FileLock

from anople_anomalib.utils.files import written_whole

from .settings import split_categories

EXAMPLES, SAMPLES, SCORES = "examples", "samples", "scores"
"""Folders of the example maps, of the drawn shots and of the images' scores of a comparison."""
OK, FAILED = "ok", "failed"
LEADING_COLUMNS = ("status", "model", "setting", "dataset", "categories", "k_shot", "seed", "transfer")
COSTS = {
    "preparation_seconds": ("Preparation (s)", "s"),
    "preparation_cpu_seconds": ("Preparation, CPU (s)", "s"),
    "preparation_memory_mb": ("Peak memory of preparation (MB)", "MB"),
    "fit_seconds": ("Fit (s)", "s"),
    "fit_cpu_seconds": ("Fit, CPU (s)", "s"),
    "test_seconds": ("Test (s)", "s"),
    "test_cpu_seconds": ("Test, CPU (s)", "s"),
    "images_per_second": ("Images/s", "1/s"),
    "images_per_cpu_second": ("Images/s of CPU", "1/s"),
    "peak_memory_mb": ("Peak memory (MB)", "MB"),
    "trainable_parameters": ("Trained parameters", "1"),
    "checkpoint_mb": ("Checkpoint (MB)", "MB"),
}
"""Heading and unit of the costs; metrics are in percent."""
TRAILING_COLUMNS = (*COSTS, "threads", "batch_size", "accelerator", "verdicts", "error", "job_id", "config")
MAIN_METRICS = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO")
MAX_CATEGORIES = 3  # more are counted instead of named
DECIMALS = 6


class ResultsTable:
    """The table ``results.csv`` of a folder; several processes may write to it.

    Args:
        folder: Folder of the comparison; it is created with the first row.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "results.csv"

    def rows(self) -> list[dict[str, str]]:
        """Return all rows as text, cells that a row does not have as ``""``; another kind of table is a ValueError."""
        if not self.path.is_file():
            return []
        table = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        if missing := [name for name in ("status", "job_id", "config") if name not in table]:
            msg = f"'{self.path}' is no table of a comparison: it has no column {', '.join(missing)}."
            raise ValueError(msg)
        return cast("list[dict[str, str]]", table.to_dict("records"))

    def done(self) -> set[str]:
        """Return the identities of the jobs that succeeded: those that a resumed run skips."""
        return {row["job_id"] for row in self.rows() if row["status"] == OK}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one job's row by its ``job_id``; an older row of the same job, a failed attempt, is replaced.

        Columns that are not in ``LEADING_COLUMNS`` or ``TRAILING_COLUMNS`` are metrics and stand between them.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            rows = [old for old in self.rows() if old["job_id"] != row["job_id"]]
            rows.append({column: _as_text(value) for column, value in row.items()})
            metrics = metric_names(dict.fromkeys(column for each in rows for column in each))
            table = pd.DataFrame(rows, columns=[*LEADING_COLUMNS, *metrics, *TRAILING_COLUMNS])
            with written_whole(self.path) as temporary:
                table.to_csv(temporary, index=False, lineterminator="\n")


def write_plan(folder: str | Path, name: str, jobs: Iterable[Mapping[str, Any]], tables: Iterable[str] = ()) -> None:
    """Write the plan of the configuration ``name``, which a later run replaces: a report names missing jobs by it.

    It holds the rows of :meth:`JobSettings.describe`, and the paper's tables whose figures belong beside the results.
    """
    plan = {"published_tables": list(tables), "jobs": [dict(job) for job in jobs]}
    with written_whole(Path(folder) / f"plan_{name}.json") as temporary:
        temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")


def read_plans(folder: str | Path) -> list[dict[str, Any]]:
    """Return the plans in a folder, each with ``published_tables`` and ``jobs``, in the order of their names.

    Raises:
        ValueError: If one is no such plan.
    """
    plans = []
    for path in sorted(Path(folder).glob("plan_*.json")):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"The plan '{path}' is not JSON ({error}): remove it, or run the comparison again."
            raise ValueError(msg) from error
        if not _is_plan(plan):
            known = "published_tables, jobs"
            msg = f"'{path}' is no plan of a comparison ({known}): remove it, or run the comparison again."
            raise ValueError(msg)
        plans.append(plan)
    return plans


def _is_plan(plan: object) -> bool:
    """Return whether plain data are two lists, of names and of flat rows."""
    if not isinstance(plan, dict) or plan.keys() != {"published_tables", "jobs"}:
        return False
    if not all(isinstance(each, list) for each in plan.values()):
        return False
    plain = (str, int, float, type(None))
    return all(isinstance(table, str) for table in plan["published_tables"]) and all(
        isinstance(job, dict) and "job_id" in job and all(isinstance(value, plain) for value in job.values())
        for job in plan["jobs"]
    )


def metric_names(row: Iterable[str]) -> list[str]:
    """Return the names of the metrics in a row: every column that is neither leading nor trailing."""
    return [name for name in row if name not in LEADING_COLUMNS and name not in TRAILING_COLUMNS]


def short_categories(cell: str) -> str:
    """Return the categories in a cell, or their number where they are many."""
    categories = split_categories(cell)
    return ", ".join(categories) if len(categories) <= MAX_CATEGORIES else f"{len(categories)} categories"


def name_of(row: Mapping[str, Any]) -> str:
    """Return the name of a job in messages: its model and its data."""
    return f"{row['model']} on {row['dataset']} {short_categories(row['categories'])}".rstrip()


def _as_text(value: object) -> str:
    """Return a cell: nothing for ``None``, numbers without needless digits, text on one line."""
    if value is None:
        return ""
    return repr(round(value, DECIMALS)) if isinstance(value, float) else " ".join(str(value).split())
