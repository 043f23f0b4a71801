# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The jobs of a ``fewshot`` configuration: its grids expanded, each job with a stable identity.

Example:
    >>> from anople_anomalib.pipeline.settings import expand_jobs
    >>> section = {"seed": {"grid": [0, 1]}, "model": {"class_path": "Padim"}, "data": {"class_path": "MVTecAD"}}
    >>> [(job.label, job.seed) for job in expand_jobs(section, accelerator="cpu")]
    [('Padim', 0), ('Padim', 1)]
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from jsonargparse import ArgumentParser

from anople_anomalib.utils.arguments import check, integer

SECTION_KEYS = ("seed", "model", "data", "trainer", "robustness")
RUNS_KEY = "runs"
MODEL_KEYS = ("class_path", "init_args", "label", "trainer", "auxiliary")
AUXILIARY_KEYS = ("datamodule", "categories")
DATA_KEYS = ("class_path", "init_args")
CORRUPTIONS = ("lamp", "blur", "jpeg", "glare", "shift")
LOCAL, RAY = "local", "ray"
ID_LENGTH = 12  # hexadecimal digits of a job's identity


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options that ``anomalib fewshot`` and ``anople compare`` have beside ``--config``."""
    parser.add_argument("--folder", type=str | None, default=None, help="folder of the results, to resume a run")
    parser.add_argument("--engine", type=Literal["local", "ray"], default=LOCAL, help="place where the jobs run")
    parser.add_argument("--ray_address", type=str | None, default=None, help="address of a running Ray cluster")
    parser.add_argument("--cpus_per_job", type=int, default=1, help="with Ray: CPU cores of a job")
    parser.add_argument("--gpus_per_job", type=float | None, default=None, help="with Ray: GPUs of a job")


@dataclass(frozen=True)
class JobSettings:
    """One model, trained and tested once.

    Args:
        accelerator: Lightning's name of the accelerator, such as ``"cpu"``.
        seed: Seed of everything random, the draw of the shots included unless the data settle it.
        model: ``class_path`` and ``init_args`` of the model.
        data: ``class_path`` and ``init_args`` of the datamodule.
        trainer: Arguments of the trainer, such as ``max_epochs``.
        label: Name of the method in tables and plots; not part of the identity.
        auxiliary: ``datamodule`` and ``categories`` that the model learns from before it sees the shots, if it does.
        robustness: Kinds of corruptions under which the model is tested again, see :mod:`.robustness`.
    """

    accelerator: str
    seed: int
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    label: str
    auxiliary: dict[str, Any] | None = None
    robustness: list[str] | None = None

    @property
    def config(self) -> str:
        """The settings as one line of JSON with sorted keys."""
        settings = {name: value for name, value in vars(self).items() if name != "label" and value is not None}
        return json.dumps(settings, sort_keys=True, default=str)

    @property
    def job_id(self) -> str:
        """The job's identity: the same settings give the same one, in any process and on any machine."""
        return hashlib.sha256(self.config.encode()).hexdigest()[:ID_LENGTH]

    def describe(self) -> dict[str, Any]:
        """Return the columns of a result row that are known before the job runs."""
        arguments = self.data["init_args"]
        inner = arguments.get("datamodule", self.data)  # FewShot wraps the datamodule of the data set
        inner = {"class_path": inner} if isinstance(inner, str) else inner
        inner_arguments = inner.get("init_args") or {}
        categories = arguments.get("categories", inner_arguments.get("category", ""))
        return {
            "model": self.label,
            "dataset": inner_arguments.get("name") or class_name(inner),
            "categories": join_categories(categories if isinstance(categories, list) else [str(categories)]),
            "k_shot": arguments.get("k_shot"),
            "transfer": auxiliary_text(self.auxiliary),
            "seed": self.seed,
            "accelerator": self.accelerator,
            "job_id": self.job_id,
            "config": self.config,
        }


def expand_jobs(section: Mapping[str, Any], accelerator: str) -> list[JobSettings]:
    """Expand the grids of a ``fewshot`` section.

    Args:
        section: The section with the keys ``model``, ``data`` and, if wanted, ``seed`` and ``trainer``. Any value in
            it, also one within a grid of models, may be ``{"grid": [...]}``. A list under the key ``runs`` holds
            several such sections, each of which is completed by the keys beside it: for grids that do not go with
            each other.
        accelerator: Lightning's name of the accelerator.

    Returns:
        The jobs in the order of the grids, each of them once.

    Raises:
        ValueError: If a key is missing, unknown, or of the wrong kind.
    """
    common = {key: value for key, value in section.items() if key != RUNS_KEY}
    runs = section.get(RUNS_KEY) or [{}]
    if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs):
        msg = f"{RUNS_KEY} must be a list of mappings with the keys {', '.join(SECTION_KEYS)}, got {runs!r}."
        raise ValueError(msg)
    jobs: dict[str, JobSettings] = {}
    for run in runs:
        settings = {**common, **run}
        check_keys("the fewshot section", settings, known=SECTION_KEYS, needed=("model", "data"))
        for combination in _expanded(settings):
            job = _job_settings(combination, accelerator)
            jobs[job.job_id] = job
    return list(jobs.values())


def _expanded(settings: object) -> list[Any]:
    """Return all combinations of the grids in nested mappings, also of those within the values of a grid."""
    if not isinstance(settings, Mapping):
        return [settings]
    if "grid" in settings:
        if not isinstance(settings["grid"], list) or len(settings) > 1:
            msg = f"A grid must be a list of values, and stand alone, got {dict(settings)!r}."
            raise ValueError(msg)
        return [expanded for value in settings["grid"] for expanded in _expanded(value)]
    combinations = product(*map(_expanded, settings.values()))
    return [dict(zip(settings, combination, strict=True)) for combination in combinations]


def _job_settings(settings: Mapping[str, Any], accelerator: str) -> JobSettings:
    """Check one combination and turn it into settings; the model's own trainer arguments win over the section's."""
    model = _class_settings("model", settings["model"], MODEL_KEYS)
    seed = settings.get("seed", 0)
    check(integer(0), seed=seed)
    return JobSettings(
        accelerator=accelerator,
        seed=seed,
        model={"class_path": model["class_path"], "init_args": model["init_args"]},
        data=_class_settings("data", settings["data"], DATA_KEYS),
        trainer={**(settings.get("trainer") or {}), **(model.get("trainer") or {})},
        label=str(model.get("label") or class_name(model)),
        auxiliary=_auxiliary(model.get("auxiliary")),
        robustness=_robustness(settings.get("robustness")),
    )


def _class_settings(name: str, value: object, known: tuple[str, ...]) -> dict[str, Any]:
    settings = {"class_path": value} if isinstance(value, str) else value
    if not isinstance(settings, Mapping):
        msg = f"{name} must be a class name or a mapping with class_path and init_args, got {value!r}."
        raise ValueError(msg)
    check_keys(f"{name} in the fewshot section", settings, known=known, needed=("class_path",))
    return {**settings, "init_args": dict(settings.get("init_args") or {})}


def _auxiliary(settings: object) -> dict[str, Any] | None:
    """Check the data that a model learns from before it sees the shots."""
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        msg = f"auxiliary must be a mapping with datamodule and perhaps categories, got {settings!r}."
        raise ValueError(msg)
    check_keys("auxiliary in the fewshot section", settings, known=AUXILIARY_KEYS, needed=("datamodule",))
    if not (categories := settings.get("categories", "others")) or not isinstance(categories, str | list):
        msg = f"categories of auxiliary must be a list of names, or left out for all others, got {categories!r}."
        raise ValueError(msg)
    return dict(settings)


def _robustness(kinds: object) -> list[str] | None:
    """Check the kinds of corruptions, of which ``"all"`` stands for all."""
    if kinds is None:
        return None
    chosen = list(CORRUPTIONS) if kinds == "all" else kinds
    if not isinstance(chosen, list) or not chosen or not set(map(str, chosen)) <= set(CORRUPTIONS):
        msg = f"robustness must be 'all' or a list of some of {', '.join(CORRUPTIONS)}, got {kinds!r}."
        raise ValueError(msg)
    return chosen


def check_keys(where: str, settings: Mapping[str, Any], known: Sequence[str], needed: Sequence[str] = ()) -> None:
    """Refuse a mapping with an unknown key, or without one that it needs; the error names its place."""
    if unknown := sorted(str(key) for key in settings if key not in known):
        msg = f"Unknown key {', '.join(unknown)} in {where}: known are {', '.join(known)}."
        raise ValueError(msg)
    if missing := [key for key in needed if not settings.get(key)]:
        msg = f"The key {', '.join(missing)} is missing in {where}."
        raise ValueError(msg)


def class_name(settings: Mapping[str, Any]) -> str:
    """Return the bare name of the class in a mapping with ``class_path``."""
    return settings["class_path"].rpartition(".")[-1]


def auxiliary_text(auxiliary: Mapping[str, Any] | None) -> str:
    """Return auxiliary data as a cell of a table, such as ``"Visa: candle;pcb1"``; nothing without any."""
    if auxiliary is None:
        return ""
    data, categories = auxiliary["datamodule"], auxiliary.get("categories", "others")
    name = class_name({"class_path": data} if isinstance(data, str) else data)
    return f"{name}: {categories if isinstance(categories, str) else join_categories(categories)}"


def join_categories(categories: Sequence[str] | None) -> str:
    """Return the categories as one cell of a table; :func:`split_categories` is the way back."""
    return ";".join(map(str, categories or []))


def split_categories(cell: str) -> list[str]:
    """Return the categories in a cell that :func:`join_categories` wrote."""
    return [category for category in cell.split(";") if category]
