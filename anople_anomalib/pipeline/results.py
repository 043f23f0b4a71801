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

EXAMPLES = "examples"
"""Folder of the maps of a comparison."""
OK, FAILED = "ok", "failed"
LEADING_COLUMNS = ("status", "model", "setting", "dataset", "categories", "k_shot", "seed")
TRAILING_COLUMNS = (
    "fit_seconds",
    "fit_cpu_seconds",
    "test_seconds",
    "test_cpu_seconds",
    "images_per_second",
    "images_per_cpu_second",
    "threads",
    "batch_size",
    "peak_memory_mb",
    "trainable_parameters",
    "checkpoint_mb",
    "accelerator",
    "error",
    "job_id",
    "config",
)
DECIMALS = 6


class ResultsTable:
    """The table ``results.csv`` of a folder; several processes may write to it.

    Args:
        folder: Folder of the comparison; it is created with the first row.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "results.csv"

    def rows(self) -> list[dict[str, str]]:
        """Return all rows as text, cells that a row does not have as ``""``; no table, no rows."""
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
        """Add one job's row; an older row of the same job, a failed attempt, is replaced.

        Args:
            row: Values by column, ``job_id`` among them. Columns that are not in ``LEADING_COLUMNS`` or
                ``TRAILING_COLUMNS`` are metrics and stand between them.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            rows = [old for old in self.rows() if old["job_id"] != row["job_id"]]
            self._write([*rows, {column: _as_text(value) for column, value in row.items()}])

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Write the whole table."""
        names = dict.fromkeys(column for row in rows for column in row)
        metrics = metric_names(names)
        table = pd.DataFrame(rows, columns=[*LEADING_COLUMNS, *metrics, *TRAILING_COLUMNS])
        with written_whole(self.path) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")


def write_plan(folder: str | Path, name: str, jobs: Iterable[Mapping[str, Any]], tables: Iterable[str] = ()) -> Path:
    """Write down what a configuration asks for, so that a report can name what is missing.

    Args:
        folder: Folder of the comparison.
        name: Name of the configuration; each has a plan of its own, which a later run replaces.
        jobs: The known columns of every job's row, see :meth:`JobSettings.describe`.
        tables: The paper's tables whose figures belong beside the results.

    Returns:
        Path of the plan.
    """
    path = Path(folder) / f"plan_{name}.json"
    plan = {"published_tables": list(tables), "jobs": [dict(job) for job in jobs]}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    return path


def read_plans(folder: str | Path) -> list[dict[str, Any]]:
    """Return the plans in a folder, each with ``published_tables`` and ``jobs``, in the order of their names.

    Raises:
        ValueError: If one is not what :func:`write_plan` writes.
    """
    plans = []
    for path in sorted(Path(folder).glob("plan_*.json")):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"The plan '{path}' is not JSON ({error}): remove it, or run the comparison again."
            raise ValueError(msg) from error
        if not _is_plan(plan):
            msg = (
                f"'{path}' is no plan of a comparison (published_tables, jobs): remove it, or run the comparison again."
            )
            raise ValueError(msg)
        plans.append(plan)
    return plans


def _is_plan(plan: Any) -> bool:  # JSON
    """Return whether plain data are a plan: two lists, of names and of flat rows."""
    if not isinstance(plan, dict) or plan.keys() != {"published_tables", "jobs"}:
        return False
    tables, jobs = plan["published_tables"], plan["jobs"]
    if not isinstance(tables, list) or not isinstance(jobs, list) or not all(isinstance(each, str) for each in tables):
        return False
    plain = (str, int, float, type(None))
    return all(
        isinstance(job, dict) and "job_id" in job and all(isinstance(value, plain) for value in job.values())
        for job in jobs
    )


def metric_names(row: Iterable[str]) -> list[str]:
    """Return the names of the metrics in a row: every column that is neither leading nor trailing."""
    return [name for name in row if name not in LEADING_COLUMNS and name not in TRAILING_COLUMNS]


def _as_text(value: Any) -> str:
    """Return a cell: nothing for ``None``, numbers without needless digits, text on one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(round(value, DECIMALS))
    return " ".join(str(value).split())
