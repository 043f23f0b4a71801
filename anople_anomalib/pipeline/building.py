# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The data and the model of a job, built so that all models of a comparison see the same shots."""

from collections.abc import Mapping
from inspect import isclass, signature
from pkgutil import resolve_name
from typing import Any, cast

import anomalib.models
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule, UnknownModelError
from lightning.pytorch import Callback
from torch import nn

from anople_anomalib.anople import AnoPLe
from anople_anomalib.baselines.transfer import AuxiliaryLearner
from anople_anomalib.data import FewShot
from anople_anomalib.data.wrapping import build_datamodule
from anople_anomalib.metrics.per_category import PerCategoryEvaluator
from anople_anomalib.utils.arguments import did_you_mean

from .settings import DATA_KEYS, JobSettings, check_keys, class_name, join_categories

ONE_CLASS, MULTI_CLASS = "one-class", "multi-class"
OWN_SEEDS = ("seed", "training_seed")  # arguments of a model that follow the job's seed unless they are given


def build_data(settings: JobSettings) -> AnomalibDataModule:
    """Build the datamodule of a job, not set up; its seed draws the shots of a ``FewShot`` without one of its own."""
    arguments = dict(settings.data["init_args"])
    if class_name(settings.data) == FewShot.__name__:
        arguments.setdefault("seed", settings.seed)
    return build_datamodule({"class_path": settings.data["class_path"], "init_args": arguments})


def build_model(settings: JobSettings, datamodule: AnomalibDataModule) -> AnomalibModule:
    """Build the model of a job, with an evaluator per category and without a visualizer unless others are given.

    The job's seed is also the model's ``seed`` and ``training_seed`` (AnoPLe's ``training.seed``) where the model has
    these arguments and they are not given. The shots of a ``FewShot`` win over the model's own number of shots.

    Raises:
        TypeError: If an argument is unknown.
        UnknownModelError: If anomalib has no such model.
        ValueError: If another package has no such model.
    """
    cls = model_class(settings.model["class_path"])
    accepted = signature(cls).parameters
    given = {name: instantiated(value) for name, value in settings.model["init_args"].items()}
    if cls is AnoPLe:
        given["training"] = {"seed": settings.seed, **(given.get("training") or {})}
    arguments: dict[str, Any] = {name: settings.seed for name in OWN_SEEDS if name in accepted}
    arguments |= {"visualizer": False, "evaluator": PerCategoryEvaluator(), **given}
    if not {"post_processor", "components"}.isdisjoint(accepted) and "evaluator" not in given:
        arguments.setdefault("post_processor", False)  # anomalib's keeps every pixel, for labels that nobody asks for
    if isinstance(datamodule, FewShot) and "k_shot" in accepted and cls is not AnoPLe:  # which asks FewShot itself
        datamodule.prepare_data()
        datamodule.setup()
        shots = len(datamodule.train_data)  # models such as WinClip take references of all categories
        if issubclass(cls, AuxiliaryLearner):  # which learn from one category at a time
            shots //= len(datamodule.categories)
        arguments["k_shot"] = shots
    return cls(**arguments)


def instantiated(value: object) -> Any:
    """Build the objects in plain data, such as a pre-processor and its transform.

    A mapping with ``class_path``, and ``init_args`` if there are any, stands for an object.

    Raises:
        ValueError: If one is neither a module, nor a callback or a metric: a configuration calls no other code.
    """
    if isinstance(value, Mapping) and "class_path" in value:
        check_keys("a class of the fewshot section", value, known=DATA_KEYS, needed=("class_path",))
        cls = _imported(value["class_path"], "part of a model", nn.Module, Callback)
        return cls(**instantiated(value.get("init_args") or {}))
    if isinstance(value, Mapping):
        return {key: instantiated(each) for key, each in value.items()}
    return [instantiated(each) for each in value] if isinstance(value, list) else value


def categories_of(datamodule: AnomalibDataModule) -> list[str]:
    """Return the categories of a datamodule; the only one's name where it has one."""
    return datamodule.categories if isinstance(datamodule, FewShot) else [datamodule.category or datamodule.name]


def describe(model: AnomalibModule, datamodule: AnomalibDataModule) -> dict[str, Any]:
    """Return the columns that only the built model and data can tell: ``setting``, ``categories`` and ``k_shot``."""
    categories = categories_of(datamodule)
    k_shot = datamodule.k_shot if isinstance(datamodule, FewShot) else model.hparams.get("k_shot")
    return {
        "setting": MULTI_CLASS if len(categories) > 1 else ONE_CLASS,
        "categories": join_categories(categories),
        "k_shot": "all" if k_shot is None else k_shot,
    }


def model_class(path: str) -> type[AnomalibModule]:
    """Return a model of anomalib by its bare name, or any by its full one, as ``anomalib train`` does."""
    if "." in path:
        return _imported(path, "model", AnomalibModule)
    found = getattr(anomalib.models, path, None)  # the plugin's own are loaded when they are asked for
    if not isclass(found):
        msg = f"anomalib has no model '{path}'{did_you_mean(path, dir(anomalib.models))}."
        raise UnknownModelError(msg)
    return cast("type[AnomalibModule]", found)


def _imported(path: str, kind: str, *bases: type) -> type[Any]:
    """Import a class by its full name, and refuse one of another kind."""
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"There is no {kind} '{path}': {error}."
        raise ValueError(msg) from error
    if not (isclass(found) and issubclass(found, bases)):
        msg = f"'{path}' is no {kind}: it must be a subclass of {' or '.join(base.__name__ for base in bases)}."
        raise ValueError(msg)
    return found
