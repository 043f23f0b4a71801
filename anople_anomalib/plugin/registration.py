# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The plugin's classes under anomalib's own names.

anomalib finds models among the subclasses of its ``AnomalibModule``, but ``get_model`` with a ``class_path`` looks in
``anomalib.models``, ``get_datamodule`` in ``anomalib.data``, and the command line in ``PIPELINE_REGISTRY``. Here the
plugin's classes are put where anomalib's own are.

:mod:`anople_anomalib.plugin.discovery` calls each function as soon as the module that it adds to is imported. That is
before ``anomalib.engine`` and ``anomalib.cli`` are complete, so the model and the datamodules must not import those at
the top of their modules. The functions can be called any number of times.
"""

from importlib import import_module
from types import ModuleType

PIPELINE_NAME = "fewshot"


def register_model() -> None:
    """Add AnoPLe and the baselines to ``anomalib.models`` and ``anomalib.models.image``, and their weights to timm."""
    from anople_anomalib import baselines
    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.backbones.package_weights import register_names

    register_names()

    models: list[type] = [AnoPLe, *(getattr(baselines, name) for name in baselines.__all__)]
    for host in ("anomalib.models", "anomalib.models.image"):
        for model in models:
            _publish(model, import_module(host))


def register_datamodules() -> None:
    """Add the datamodules to ``anomalib.data``."""
    from anople_anomalib.data import FewShot, Parts, SampleTextures

    for datamodule in (FewShot, Parts, SampleTextures):
        _publish(datamodule, import_module("anomalib.data"))


def register_pipeline() -> None:
    """Add the comparison pipeline to the subcommands of ``anomalib``."""
    from anomalib.cli.pipelines import PIPELINE_REGISTRY

    if PIPELINE_REGISTRY is None:  # an anomalib without its pipelines
        return
    from anople_anomalib.pipeline import FewShotPipeline

    PIPELINE_REGISTRY[PIPELINE_NAME] = FewShotPipeline


def _publish(cls: type, host: ModuleType) -> None:
    """Set a class of the plugin as a public name of one of anomalib's modules.

    Args:
        cls: The class.
        host: The module of anomalib.

    Raises:
        ImportError: If the module already has something else under the class's name.
    """
    name = cls.__name__
    taken_by = getattr(host, name, cls)
    if taken_by.__module__ != cls.__module__:
        msg = f"{host.__name__} already has another {name}, from {taken_by.__module__}"
        raise ImportError(msg)
    setattr(host, name, cls)
    if name not in host.__all__:
        host.__all__.append(name)
