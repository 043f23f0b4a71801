# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The data and the model of a job, built so that all models of a comparison see the same shots."""

from collections.abc import Mapping
from importlib import import_module
from inspect import isclass, signature
from typing import Any

import anomalib.models
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule, get_model
from lightning.pytorch import Callback
from torch import nn

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data import FewShot
from anople_anomalib.data.wrapping import build_datamodule
from anople_anomalib.metrics.per_category import PerCategoryEvaluator

from .examples import categories_of
from .settings import DATA_KEYS, JobSettings, check_keys, class_name, join_categories

ONE_CLASS, MULTI_CLASS = "one-class", "multi-class"
OWN_SEEDS = ("seed", "training_seed")  # arguments of a model that follow the job's seed unless they are given


def build_data(settings: JobSettings) -> AnomalibDataModule:
    """Build the data of a job.

    Args:
        settings: The job. Its seed draws the shots of a ``FewShot`` datamodule that has no seed of its own.

    Returns:
        The datamodule, not set up.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If anomalib has no such datamodule, or an argument is wrong.
    """
    arguments = dict(settings.data["init_args"])
    if class_name(settings.data) == FewShot.__name__:
        arguments.setdefault("seed", settings.seed)
    return build_datamodule({"class_path": settings.data["class_path"], "init_args": arguments})


def build_model(settings: JobSettings, datamodule: AnomalibDataModule) -> AnomalibModule:
    """Build the model of a job.

    Args:
        settings: The job. Its seed is also the model's ``seed`` and ``training_seed`` (AnoPLe's
            ``training.seed``) where the model has these arguments and they are not given.
        datamodule: The job's data. The shots of a ``FewShot`` win over the model's own number of shots.

    Returns:
        The model, with an evaluator per category and without a visualizer unless others are given.

    Raises:
        TypeError: If an argument is unknown.
        UnknownModelError: If anomalib has no such model.
        ValueError: If another package has no such model.
    """
    path = settings.model["class_path"]
    others = None if "." not in path or path.startswith("anomalib.") else _model_of_another_package(path)
    cls = others or getattr(anomalib.models, class_name(settings.model), None)
    accepted = signature(cls).parameters if cls is not None else {}
    arguments: dict[str, Any] = {name: settings.seed for name in OWN_SEEDS if name in accepted}
    given = {name: instantiated(value) for name, value in settings.model["init_args"].items()}
    if cls is AnoPLe:
        given["training"] = {"seed": settings.seed, **(given.get("training") or {})}
    arguments |= {"visualizer": False, "evaluator": PerCategoryEvaluator(), **given}
    if "post_processor" in accepted and "evaluator" not in settings.model["init_args"]:
        arguments.setdefault("post_processor", False)  # anomalib's keeps every pixel, for labels that nobody asks for
    if isinstance(datamodule, FewShot) and "k_shot" in accepted and cls is not AnoPLe:  # which asks FewShot itself
        arguments["k_shot"] = _number_of_shots(datamodule)
    return others(**arguments) if others else get_model({"class_path": path}, **arguments)


def instantiated(value: Any) -> Any:
    """Build the objects that settings describe, such as a pre-processor and its transform.

    Args:
        value: Plain data; a mapping with ``class_path``, and ``init_args`` if there are any, stands for an object.

    Returns:
        The same with objects, also those within the arguments of others.

    Raises:
        ValueError: If one is neither a module, nor a callback or a metric: a configuration calls no other code.
    """
    if isinstance(value, Mapping) and "class_path" in value:
        check_keys("a class of the fewshot section", value, known=DATA_KEYS, needed=("class_path",))
        cls = _imported(value["class_path"], "class")
        if not (isclass(cls) and issubclass(cls, (nn.Module, Callback))):
            msg = (
                f"'{value['class_path']}' is no part of a model: it must be a subclass of torch's Module or a Callback."
            )
            raise ValueError(msg)
        return cls(**instantiated(value.get("init_args") or {}))
    if isinstance(value, Mapping):
        return {key: instantiated(each) for key, each in value.items()}
    return [instantiated(each) for each in value] if isinstance(value, list) else value


def describe(model: AnomalibModule, datamodule: AnomalibDataModule) -> dict[str, Any]:
    """Return the columns that only the built model and data can tell.

    Args:
        model: The model.
        datamodule: The data.

    Returns:
        ``setting``, ``categories`` and ``k_shot``; ``"all"`` where every training image is used.
    """
    categories = categories_of(datamodule)
    k_shot = datamodule.k_shot if isinstance(datamodule, FewShot) else model.hparams.get("k_shot")
    return {
        "setting": MULTI_CLASS if len(categories) > 1 else ONE_CLASS,
        "categories": join_categories(categories),
        "k_shot": "all" if k_shot is None else k_shot,
    }


def _model_of_another_package(class_path: str) -> type[AnomalibModule]:
    """Import a model by its full name, as ``anomalib train`` does; ``get_model`` would not."""
    found = _imported(class_path, "model")
    if not (isclass(found) and issubclass(found, AnomalibModule)):
        msg = f"'{class_path}' is no model of anomalib: it must be a subclass of AnomalibModule."
        raise ValueError(msg)
    return found


def _imported(class_path: str, kind: str) -> object:
    """Import what a dotted name stands for; ``None`` where its module lacks it."""
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except (ModuleNotFoundError, ValueError) as error:
        msg = f"There is no {kind} '{class_path}': {error}."
        raise ValueError(msg) from error


def _number_of_shots(datamodule: FewShot) -> int:
    """Return the number of training images over all categories; models such as WinClip take that many references."""
    datamodule.prepare_data()
    datamodule.setup()
    return len(datamodule.train_data)
