# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The plugin's classes under anomalib's own names.

``get_model`` with a ``class_path`` looks in ``anomalib.models``, ``get_datamodule`` in ``anomalib.data``: the names of
the plugin's classes stand there, and a class is loaded when its name is asked for. By a model's name alone anomalib
finds those among the subclasses of its ``AnomalibModule`` that are loaded: ``get_model``, ``list_models`` and the
command line load all of them first.

:mod:`anople_anomalib.plugin.discovery` calls each function as soon as the module that it adds to is imported. The
functions can be called any number of times.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

from . import discovery

PIPELINE_NAME = "fewshot"
_BASELINES = ("SPADE", "AnomalyGPT", "FastRecon", "InCTRL", "PromptAD", "RegAD", "TinyWinClip")
_MODELS = {"AnoPLe": "anople", **dict.fromkeys(_BASELINES, "baselines")}
_DATAMODULES = dict.fromkeys(("FewShot", "Parts", "SampleTextures"), "data")
_OFFERED = {"anomalib.models": _MODELS, "anomalib.models.image": _MODELS, "anomalib.data": _DATAMODULES}
"""By the module of anomalib, the plugin's classes and their modules."""


def offer_models() -> None:
    """Offer the models in ``anomalib.models`` and ``anomalib.models.image``, and their weights to timm."""
    from anople_anomalib.backbones.package_weights import register_names

    register_names()
    _offer("anomalib.models")
    _offer("anomalib.models.image")


def offer_datamodules() -> None:
    """Offer the datamodules in ``anomalib.data``."""
    _offer("anomalib.data")


def register_command() -> None:
    """Load all classes for anomalib's command line, and add the comparison pipeline to its subcommands."""
    from anomalib.cli.pipelines import PIPELINE_REGISTRY

    for host in ("anomalib.models", "anomalib.data"):
        _load_all(import_module(host))
    if PIPELINE_REGISTRY is None:  # an anomalib without its pipelines
        return
    from anople_anomalib.pipeline import FewShotPipeline

    PIPELINE_REGISTRY[PIPELINE_NAME] = FewShotPipeline


def _load_all(host: ModuleType) -> None:
    for name in _OFFERED[host.__name__]:
        hasattr(host, name)  # asks for it


class _Host(ModuleType):
    """A module of anomalib that has the plugin's classes, too, and loads them when it is asked for them.

    All models are loaded before a function that looks for them is given away.
    """

    def __getattribute__(self, name: str) -> Any:
        """Return the member of the module with a name."""
        if name in {"get_model", "list_models"}:
            _load_all(self)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        """Return one of the plugin's classes; one that cannot be loaded is a warning, never an error of anomalib."""
        try:
            if name in _OFFERED[self.__name__]:
                return getattr(import_module(f"anople_anomalib.{_OFFERED[self.__name__][name]}"), name)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the plugin
            discovery.warn(self.__name__, error)
        msg = f"module {self.__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)


def _offer(host_name: str) -> None:
    """Make the plugin's classes public names of one of anomalib's modules.

    Raises:
        ImportError: If the module already has something else under the name of a class.
    """
    host = import_module(host_name)
    for name in _OFFERED[host_name].keys() & vars(host).keys():
        msg = f"{host_name} already has another {name}, from {vars(host)[name].__module__}"
        raise ImportError(msg)
    host.__class__ = _Host
    public: list[str] = vars(host)["__all__"]
    public += [name for name in _OFFERED[host_name] if name not in public]
