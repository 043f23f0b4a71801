# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The results of ``anomalib fewshot`` as one value per method, category, seed and metric."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from anople_anomalib.pipeline.results import COSTS, FAILED, OK, ResultsTable, metric_names, read_plans
from anople_anomalib.pipeline.settings import auxiliary_text, class_name, split_categories

logger = logging.getLogger(__name__)

PERCENT = 100
VARIED = ("k_shot", "seed", "training_seed", "training.seed", "categories", "category", "datamodule", "root", "name")
"""Arguments that do not make another method: the tables show them otherwise."""
VALUE_COLUMNS = ("method", "dataset", "setting", "shots", "category", "seed", "metric", "value", "job_id")
LONG_COLUMNS = ("method", "data", "setting", "category", "k", "seed", "metric", "value", "unit", "job_id")


@dataclass
class Results:
    """The results of one or more folders.

    Args:
        jobs: One row per job that ran: the result table's columns as text, ``method``, and ``draw``, all its seeds.
        values: One row per measured value with ``VALUE_COLUMNS``; ``value`` in percent.
        missing: One row per planned job that did not run to its end, failed ones not included.
        published_tables: The paper's tables that the configurations name.
        folders: Folder that each job was read from, by its identity.
    """

    jobs: pd.DataFrame
    values: pd.DataFrame
    missing: pd.DataFrame
    published_tables: list[str]
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def done(self) -> pd.DataFrame:
        """The jobs that succeeded."""
        return self.jobs[self.jobs["status"] == OK]

    @property
    def failed(self) -> pd.DataFrame:
        """The jobs that failed."""
        return self.jobs[self.jobs["status"] == FAILED]

    @property
    def transfer(self) -> set[str]:
        """Methods that learned from other data before they saw the shots, as the paper's Table 1 marks them."""
        learned = self.jobs.get("transfer", pd.Series("", self.jobs.index)).fillna("") != ""
        return set(self.jobs.loc[learned, "method"])

    @property
    def without_memory(self) -> set[str]:
        """Methods that were given no memory of the shots, as those of the paper's Table 2."""
        has_memory = [_has_memory(json.loads(config)["model"]["init_args"]) for config in self.jobs["config"]]
        return {method for method, has in zip(self.jobs["method"], has_memory, strict=True) if not has}

    def long_form(self) -> pd.DataFrame:
        """Return all metrics by category and all costs by job, one row per number with ``LONG_COLUMNS``.

        ``category`` is empty for the costs of a whole job. Means over categories or seeds are left to the reader.
        """
        job_columns = ["method", "dataset", "setting", "k_shot", "seed", "job_id"]
        costs = [cost for cost in COSTS if cost in self.done]
        jobs = self.done.melt(id_vars=job_columns, value_vars=costs, var_name="metric")
        units = [COSTS[metric][1] for metric in jobs["metric"]]
        jobs = jobs.assign(value=pd.to_numeric(jobs["value"]), category="", unit=units)
        both = [self.values.assign(unit="percent"), jobs.dropna(subset=["value"])]
        names = {"dataset": "data", "shots": "k", "k_shot": "k"}
        return pd.concat([table.rename(columns=names) for table in both], ignore_index=True)[list(LONG_COLUMNS)]


def _has_memory(arguments: Mapping[str, Any]) -> bool:
    """Return whether a model has a memory: an option of AnoPLe's group, an argument of PromptAD."""
    memory = arguments.get("memory") or {}
    return bool(memory.get("enabled", True)) and bool(arguments.get("use_memory", True))


def load_results(folders: Sequence[str | Path]) -> Results:
    """Read the result tables and plans of folders that ``anomalib fewshot`` wrote.

    Where two folders hold the same job, the one that succeeded counts, else the last.

    Raises:
        FileNotFoundError: If a folder has no results.
    """
    rows: dict[str, dict[str, str]] = {}
    came_from: dict[str, Path] = {}
    plans: list[dict[str, Any]] = []
    for folder in folders:
        table = ResultsTable(folder)
        if not table.path.is_file():
            msg = f"There is no results.csv in {folder}: name a folder that `anomalib fewshot` wrote."
            raise FileNotFoundError(msg)
        for row in table.rows():
            # a job that succeeded in one folder stays, whatever became of it in another
            if rows.get(row["job_id"], {}).get("status") != OK:
                rows[row["job_id"]] = row
                came_from[row["job_id"]] = Path(folder)
        plans += read_plans(folder)
    jobs = list(rows.values())
    planned = {job["job_id"]: job for plan in plans for job in plan["jobs"] if job["job_id"] not in rows}
    missing = [{key: "" if value is None else str(value) for key, value in job.items()} for job in planned.values()]
    methods = _method_names([*jobs, *missing])
    draws = _draws(jobs, methods)
    found = [value for job in zip(jobs, methods, draws, strict=False) for value in _values(*job)]
    values = pd.DataFrame(found, columns=list(VALUE_COLUMNS))
    again = values.duplicated([name for name in VALUE_COLUMNS if name not in ("value", "job_id")])
    if again.any():
        repeated = ", ".join(values.loc[again, "job_id"].unique())
        logger.warning("Figures of another job of the same method, data, shots and seeds count, not of %s.", repeated)
    return Results(
        jobs=pd.DataFrame(jobs).assign(method=methods[: len(jobs)], draw=draws),
        values=values[~again].reset_index(drop=True),
        missing=pd.DataFrame(missing).assign(method=methods[len(jobs) :]),
        published_tables=list(dict.fromkeys(table for plan in plans for table in plan["published_tables"])),
        folders=came_from,
    )


def _draws(jobs: Sequence[dict[str, str]], methods: Sequence[str]) -> list[str]:
    """Return the name of every job's draw: its seed, that of its data, and of a model if those of a method differ."""
    seeds = []
    for job in jobs:
        config = json.loads(job["config"])
        model = config["model"]["init_args"]
        training = model.get("training_seed", (model.get("training") or {}).get("seed"))
        seeds.append({"": config["data"]["init_args"].get("seed"), "model ": model.get("seed"), "training ": training})
    of_method: dict[tuple[str, str, str], set[Any]] = {}
    for job, method, own in zip(jobs, methods, seeds, strict=False):
        for name, seed in own.items():
            of_method.setdefault((method, job["dataset"], name), set()).add(seed)
    names = []
    for job, method, own in zip(jobs, methods, seeds, strict=False):
        shown = [name for name in own if not name or len(of_method[method, job["dataset"], name]) > 1]
        names.append("/".join([job["seed"], *(f"{name}{own[name]}" for name in shown if own[name] is not None)]))
    return names


def _values(job: dict[str, str], method: str, seed: str) -> Iterable[dict[str, Any]]:
    """Return the job's metrics, one row per category; the mean over categories is left to the report."""
    known = {"method": method, "dataset": job["dataset"], "setting": job["setting"]}
    known |= {"shots": job["k_shot"], "seed": seed, "job_id": job["job_id"]}
    categories = split_categories(job["categories"])
    for name in metric_names(job):
        category, metric = split_metric_name(name)
        # without a category it is the only one's, or else a mean, which the report computes itself
        if not category and len(categories) == 1:
            category = categories[0]
        if category and job[name] not in ("", "nan"):
            yield {**known, "category": category, "metric": metric, "value": float(job[name]) * PERCENT}


def split_metric_name(name: str) -> tuple[str | None, str]:
    """Return category and metric of a name; no category is a mean over categories, or there is one category."""
    category, _, metric = name.rpartition("/")
    return category or None, metric


def _method_names(jobs: Sequence[dict[str, str]]) -> list[str]:
    """Return the name of every job's method: its label, and the arguments that others with it have otherwise.

    Such as ``"AnoPLe"`` or ``"AnoPLe (prompts.depth=9)"``.
    """
    settings = [_method_settings(job) for job in jobs]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job, setting in zip(jobs, settings, strict=True):
        groups.setdefault((job["model"], job["dataset"]), []).append(setting)
    names = []
    for job, setting in zip(jobs, settings, strict=True):
        others = groups[job["model"], job["dataset"]]
        differs = [key for key in setting if any(other.get(key) != setting[key] for other in others)]
        given = ", ".join(f"{key}={setting[key]}" for key in differs)
        names.append(f"{job['model']} ({given})" if given else job["model"])
    return names


def _method_settings(job: dict[str, str]) -> dict[str, Any]:
    """Return all arguments of a job but shots, seeds and categories; options of a group as ``prompts.depth``."""
    config = json.loads(job["config"])
    data = config["data"]["init_args"]
    wrapped = data.get("datamodule")
    inner = wrapped.get("init_args") or {} if isinstance(wrapped, dict) else {}
    arguments = {**inner, **data, **config["trainer"]}
    for name, value in config["model"]["init_args"].items():
        options = {f"{name}.{option}": each for option, each in value.items()} if isinstance(value, dict) else None
        arguments |= {name: value} if options is None else options
    arguments = {key: value for key, value in arguments.items() if key not in VARIED}
    auxiliary = auxiliary_text(config.get("auxiliary"))
    return {"class": class_name(config["model"]), "on": config["accelerator"], "auxiliary": auxiliary, **arguments}
