# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The datamodules that :class:`~anople_anomalib.data.FewShot` wraps: found, built, one per category."""

import copy
import inspect
import pydoc
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anomalib.data import AnomalibDataModule
from jsonargparse import Namespace

from anople_anomalib.utils.arguments import did_you_mean

from .dataset_checks import SUBSETS
from .errors import data_root

ALL = "all"
_SPLIT_SEED = 0
"""Seed of random splits of a wrapped datamodule that has none."""


def build_datamodule(datamodule: Any) -> AnomalibDataModule:
    """Build a datamodule, not set up; an unknown one is a ``ValueError``.

    Args:
        datamodule: A class name, with or without its module; a mapping, or a namespace, with ``class_path`` and
            perhaps ``init_args``; or a datamodule, of which a copy is returned.
    """
    if isinstance(datamodule, AnomalibDataModule):
        return copy.copy(datamodule)
    if isinstance(datamodule, str):
        return _find_class(datamodule)()
    config = _plain(datamodule) if isinstance(datamodule, Mapping | Namespace) else {}
    if not isinstance(config.get("class_path"), str) or set(config) - {"class_path", "init_args"}:
        msg = (
            "datamodule must be the name of a datamodule, a mapping with 'class_path' and 'init_args', or an anomalib "
            f"image datamodule, got {datamodule!r}."
        )
        raise TypeError(msg)
    return _find_class(config["class_path"])(**(config.get("init_args") or {}))


def _find_class(class_path: str) -> Callable[..., AnomalibDataModule]:
    """Find a datamodule class by its full name, or by its bare name among anomalib's and this package's."""
    module_name, _, name = class_path.rpartition(".")
    for place in [module_name] if module_name else ["anomalib.data", "anople_anomalib.data"]:
        found = pydoc.locate(f"{place}.{name}")
        if inspect.isclass(found) and issubclass(found, AnomalibDataModule):
            return found
    msg = f"There is no image datamodule '{class_path}' in anomalib; give a name such as 'MVTecAD' or 'Folder'."
    raise ValueError(msg)


def _plain(arguments: Any) -> Any:
    """Turn the arguments of OmegaConf or jsonargparse into plain dictionaries and lists."""
    if isinstance(arguments, Mapping):
        return {str(name): _plain(value) for name, value in arguments.items()}
    if isinstance(arguments, Sequence) and not isinstance(arguments, str | tuple):
        return [_plain(value) for value in arguments]
    return _plain(vars(arguments)) if isinstance(arguments, Namespace) else arguments


def choose_categories(datamodule: AnomalibDataModule, categories: Sequence[str] | str | None) -> list[str]:
    """Return the names of the categories that the user asks for.

    Args:
        datamodule: The datamodule to be wrapped.
        categories: Names, ``"all"``, or ``None`` for the datamodule's own category.

    Raises:
        ValueError: If there are none, one appears twice, or one is unknown.
    """
    if categories is None:
        return [datamodule.category or datamodule.name]
    known = known_categories(datamodule)
    if isinstance(categories, str):
        categories = known if categories == ALL else [categories]
    names = list(categories) if isinstance(categories, Sequence) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        msg = f"categories must be '{ALL}' or a list of names in quotes, got {categories!r}."
        raise ValueError(msg)
    for category in names:
        if names.count(category) > 1:
            msg = f"Category '{category}' is named {names.count(category)} times; name every category once."
            raise ValueError(msg)
        if category not in known and not (data_root(datamodule) / category).is_dir():
            meant = did_you_mean(category, known)
            msg = f"{datamodule.name} has no category '{category}'{meant}; choose from {', '.join(known)}."
            raise ValueError(msg)
    return names


def known_categories(datamodule: AnomalibDataModule) -> list[str]:
    """Return the categories that anomalib's module of a data set lists; without any, the datamodule's name alone.

    If the root folder holds a data set of the user's own in the same layout (folders with a ``train`` folder, some of
    them not in the list): the names of these folders.
    """
    if not _has_categories(datamodule):
        return [datamodule.category or datamodule.name]
    published = _published_categories(type(datamodule))
    root = data_root(datamodule)
    folders = sorted(path.parent.name for path in root.glob("*/train") if path.is_dir())
    if set(folders) - set(published):
        return folders
    return published or folders or [datamodule.category]


def split_by_category(datamodule: AnomalibDataModule, categories: Sequence[str]) -> dict[str, AnomalibDataModule]:
    """Copy a datamodule for each category, not set up; random splits get a fixed seed where there is none."""
    copies = {}
    for category in categories:
        single = copy.copy(datamodule)
        for name in SUBSETS:
            vars(single).pop(name, None)  # the copied one may have been in use
        single.trainer = None
        single.seed = _SPLIT_SEED if single.seed is None else single.seed
        if _has_categories(datamodule):
            single.category = category
        copies[category] = single
    return copies


def _has_categories(datamodule: AnomalibDataModule) -> bool:
    """Return whether the datamodule takes a category."""
    return "category" in inspect.signature(type(datamodule).__init__).parameters


def _published_categories(cls: type) -> list[str]:
    """Return the categories listed in the module of the datamodule or in that of its dataset."""
    for base in inspect.getmro(cls):
        for module_name in (base.__module__, base.__module__.replace(".datamodules.", ".datasets.")):
            for name, value in vars(sys.modules.get(module_name, object)).items():
                if name.endswith("CATEGORIES"):  # as in CATEGORIES and VISA_CATEGORIES
                    return [str(category) for category in value]
    return []
