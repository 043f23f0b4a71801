# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The datamodules that :class:`~anople_anomalib.data.FewShot` wraps: found, built, one per category."""

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anomalib.data import AnomalibDataModule

from anople_anomalib.utils.arguments import did_you_mean

from .errors import data_root

ALL = "all"
_SPLIT_SEED = 0
"""Seed of random splits of a wrapped datamodule that has none."""


def build_datamodule(datamodule: Any) -> AnomalibDataModule:
    """Build a datamodule.

    Args:
        datamodule: A class name, with or without its module; a mapping, or a namespace, with ``class_path`` and
            perhaps ``init_args``; or a datamodule, of which a copy is returned.

    Returns:
        The datamodule, not set up.

    Raises:
        ValueError: If there is no such datamodule.
        TypeError: If it is none of these.
    """
    if isinstance(datamodule, AnomalibDataModule):
        return copy.copy(datamodule)
    if isinstance(datamodule, str):
        return _find_class(datamodule)()
    config = datamodule if isinstance(datamodule, Mapping) else getattr(datamodule, "__dict__", {})
    unknown = set(config) - {"class_path", "init_args"}
    if not isinstance(config.get("class_path"), str) or unknown:
        msg = (
            "datamodule must be the name of a datamodule, a mapping with 'class_path' and 'init_args', or an anomalib "
            f"image datamodule, got {datamodule!r}."
        )
        raise TypeError(msg)
    return _find_class(config["class_path"])(**_plain(config.get("init_args") or {}))


def _find_class(class_path: str) -> Callable[..., AnomalibDataModule]:
    """Find a datamodule class by its full name, or by its bare name among anomalib's and this package's."""
    module_name, _, name = class_path.rpartition(".")
    for place in [module_name] if module_name else ["anomalib.data", "anople_anomalib.data"]:
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ModuleNotFoundError:
            found = None
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
    if type(arguments).__name__ == "Namespace":  # of jsonargparse, old or new, or of argparse
        return _plain(vars(arguments))
    return arguments


def choose_categories(datamodule: AnomalibDataModule, categories: Sequence[str] | str | None) -> list[str]:
    """Check the categories that the user asks for.

    Args:
        datamodule: The datamodule to be wrapped.
        categories: Names, ``"all"``, or ``None`` for the datamodule's own category.

    Returns:
        Names of the categories.

    Raises:
        ValueError: If there are none, one appears twice, or one is unknown.
    """
    own = datamodule.category or datamodule.name
    known = known_categories(datamodule)
    if categories is None:
        return [own]
    if isinstance(categories, str):
        categories = known if categories == ALL else [categories]
    categories = list(categories)
    if not categories or not all(isinstance(category, str) and category for category in categories):
        msg = f"categories must be '{ALL}' or a list of names in quotes, got {categories!r}."
        raise ValueError(msg)
    for category in categories:
        if categories.count(category) > 1:
            msg = f"Category '{category}' is named {categories.count(category)} times; name every category once."
            raise ValueError(msg)
        if category not in known and not (data_root(datamodule) / category).is_dir():
            meant = did_you_mean(category, known)
            msg = f"{datamodule.name} has no category '{category}'{meant}; choose from {', '.join(known)}."
            raise ValueError(msg)
    return categories


def known_categories(datamodule: AnomalibDataModule) -> list[str]:
    """Return the categories of a datamodule's data set.

    Args:
        datamodule: A datamodule.

    Returns:
        The names that anomalib's module of the data set lists. If the root folder holds a data set of the user's own
        in the same layout (folders with a ``train`` folder, some of them not in the list): the names of these
        folders. For a datamodule without categories: its name alone.
    """
    if not _has_categories(datamodule):
        return [datamodule.category or datamodule.name]
    published = _published_categories(type(datamodule))
    root = data_root(datamodule)
    folders = sorted(path.parent.name for path in root.glob("*/train") if path.is_dir())
    if set(folders) - set(published):
        return folders
    return published or folders or [datamodule.category]


def class_names_of(datamodule: AnomalibDataModule | None) -> str | list[str]:
    """Return the class names that a datamodule stands for: its categories, else its category, else its name.

    Args:
        datamodule: The datamodule of a training run, if there is one.

    Returns:
        One name or several; ``"object"`` without a datamodule.
    """
    if datamodule is None:
        return "object"
    return list(getattr(datamodule, "categories", [])) or datamodule.category or datamodule.name or "object"


def split_by_category(datamodule: AnomalibDataModule, categories: Sequence[str]) -> dict[str, AnomalibDataModule]:
    """Make one datamodule per category.

    Args:
        datamodule: The datamodule to be wrapped.
        categories: Names from :func:`choose_categories`.

    Returns:
        Copies of the datamodule, each set to one category and not set up. Random splits have a fixed seed.
    """
    copies = {}
    for category in categories:
        single = copy.copy(datamodule)
        single._is_setup = False  # noqa: SLF001  (the copied one may have been in use)
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
