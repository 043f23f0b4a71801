# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a ``fewshot`` configuration asks for: its grids expanded into jobs, each with a stable identity.

Example:
    >>> from anople_anomalib.pipeline.settings import expand_jobs
    >>> section = {"seed": {"grid": [0, 1]}, "model": {"class_path": "Padim"}, "data": {"class_path": "MVTecAD"}}
    >>> [(job.label, job.seed) for job in expand_jobs(section, accelerator="cpu")]
    [('Padim', 0), ('Padim', 1)]
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

SECTION_KEYS = ("seed", "model", "data", "trainer")
RUNS_KEY = "runs"
MODEL_KEYS = ("class_path", "init_args", "label", "trainer")
DATA_KEYS = ("class_path", "init_args")
ID_LENGTH = 12  # hexadecimal digits of a job's identity


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
    """

    accelerator: str
    seed: int
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    label: str

    @property
    def config(self) -> str:
        """The settings as one line of JSON with sorted keys."""
        settings = {
            "accelerator": self.accelerator,
            "seed": self.seed,
            "model": self.model,
            "data": self.data,
            "trainer": self.trainer,
        }
        return json.dumps(settings, sort_keys=True, default=str)

    @property
    def job_id(self) -> str:
        """The job's identity: the same settings give the same one, in any process and on any machine."""
        return hashlib.sha256(self.config.encode()).hexdigest()[:ID_LENGTH]

    def describe(self) -> dict[str, Any]:
        """Return the columns of a result row that are known before the job runs."""
        return {
            "model": self.label,
            **_describe_data(self.data),
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
        for combination in expand_grid(settings):
            job = _job_settings(combination, accelerator)
            # the same job of two sections runs once
            jobs[job.job_id] = job
    return list(jobs.values())


def expand_grid(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Replace every ``{"grid": [...]}`` by its values, one combination after the other.

    This is anomalib's own expansion, repeated for the grids that lie within a grid's values: a grid of models may
    hold a model with a grid of arguments.

    Args:
        settings: Nested settings.

    Returns:
        All combinations, without grids and independent of each other.
    """
    from anomalib.pipelines.components.utils import get_iterator_from_grid_dict

    if not _has_grid(settings):
        return [deepcopy(settings)]
    combinations = [deepcopy(combination) for combination in get_iterator_from_grid_dict(settings)]
    return [expanded for combination in combinations for expanded in expand_grid(combination)]


def _has_grid(settings: Any) -> bool:
    """Return whether a mapping ``{"grid": ...}`` lies anywhere in nested mappings."""
    return isinstance(settings, Mapping) and any(key == "grid" or _has_grid(value) for key, value in settings.items())


def _job_settings(settings: Mapping[str, Any], accelerator: str) -> JobSettings:
    """Check one combination and turn it into settings; the model's own trainer arguments win over the section's."""
    model = _class_settings("model", settings["model"], MODEL_KEYS)
    data = _class_settings("data", settings["data"], DATA_KEYS)
    seed = settings.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:  # True is an int, too
        msg = f"seed must be an integer, 0 or more, got {seed!r}."
        raise ValueError(msg)
    return JobSettings(
        accelerator=accelerator,
        seed=seed,
        model={"class_path": model["class_path"], "init_args": model["init_args"]},
        data=data,
        trainer={**(settings.get("trainer") or {}), **(model.get("trainer") or {})},
        label=str(model.get("label") or class_name(model)),
    )


def _class_settings(name: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of a class as a mapping with ``class_path`` and ``init_args``."""
    settings: Any = {"class_path": value} if isinstance(value, str) else value
    if not isinstance(settings, Mapping):
        msg = f"{name} must be a class name or a mapping with class_path and init_args, got {value!r}."
        raise ValueError(msg)
    check_keys(f"{name} in the fewshot section", settings, known=known, needed=("class_path",))
    return {**settings, "init_args": dict(settings.get("init_args") or {})}


def check_keys(where: str, settings: Mapping[str, Any], known: Sequence[str], needed: Sequence[str] = ()) -> None:
    """Check the keys of a mapping.

    Args:
        where: The mapping's place, for the message.
        settings: The mapping.
        known: Keys that it may have.
        needed: Keys that it must have, with a value.

    Raises:
        ValueError: If a key is missing or not known.
    """
    unknown = sorted(str(key) for key in settings if key not in known)
    if unknown:
        msg = f"Unknown key {', '.join(unknown)} in {where}: known are {', '.join(known)}."
        raise ValueError(msg)
    missing = [key for key in needed if not settings.get(key)]
    if missing:
        msg = f"The key {', '.join(missing)} is missing in {where}."
        raise ValueError(msg)


def _describe_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data set's name, its categories and the number of shots, as far as the settings tell."""
    arguments = data["init_args"]
    inner = arguments.get("datamodule", data)  # FewShot wraps the datamodule of the data set
    inner = {"class_path": inner} if isinstance(inner, str) else inner
    inner_arguments = inner.get("init_args") or {}
    categories = arguments.get("categories", inner_arguments.get("category", ""))
    return {
        "dataset": inner_arguments.get("name") or class_name(inner),
        "categories": join_categories([categories] if isinstance(categories, str) else categories),
        "k_shot": arguments.get("k_shot"),
    }


def class_name(settings: Mapping[str, Any]) -> str:
    """Return the bare name of the class in a mapping with ``class_path``."""
    return settings["class_path"].rpartition(".")[-1]


def join_categories(categories: Sequence[str] | None) -> str:
    """Return the categories as one cell of a table; :func:`split_categories` is the way back."""
    return ";".join(categories or [])


def split_categories(cell: str) -> list[str]:
    """Return the categories in a cell that :func:`join_categories` wrote."""
    return [category for category in cell.split(";") if category]
