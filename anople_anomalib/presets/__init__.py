# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The presets of AnoPLe, and the options that are given put over them.

Example:
    >>> from anople_anomalib.config import MemoryConfig
    >>> from anople_anomalib.presets import resolve
    >>> settings = resolve("offline", memory=MemoryConfig(turns="none"))
    >>> settings["memory"]["turns"], settings["memory"]["backbone"]
    ('none', 'efficientnet-lite2')
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from anople_anomalib.config import DEFAULT, GROUPS, NONE, MemoryConfig, OptionGroup, PromptConfig, TrainingConfig

_OF_THE_BACKBONE = ("pretrained", "backbone_layers", "image_size")  # options of the memory
_FOLDER = files(__name__)


def preset_names() -> list[str]:
    """Return the names of the presets, ``"paper"``, the default, first."""
    names = [Path(file.name).stem for file in _FOLDER.iterdir() if file.name.endswith(".yaml")]
    return sorted(names, key=lambda name: (name != "paper", name))


@cache
def _read(preset: str) -> Mapping[str, Any]:
    """Read a preset, whose form and values the package's tests check."""
    return yaml.safe_load((_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"))


def read_preset(preset: str) -> dict[str, Any]:
    """Read a preset.

    Args:
        preset: Its name, one of :func:`preset_names`.

    Returns:
        Plain data: ``title``, ``backbone``, ``pretrained``, and all options of ``prompts``, ``training`` and
        ``memory``.

    Raises:
        ValueError: If there is no such preset.
    """
    names = preset_names()
    if preset not in names:
        msg = f"preset must be one of {', '.join(names)}, got {preset!r}."
        raise ValueError(msg)
    return json.loads(json.dumps(_read(preset)))  # a copy that may be changed


def resolve(
    preset: str = "paper",
    backbone: str | None = None,
    pretrained: str | Path | None = None,
    prompts: PromptConfig | Mapping[str, Any] | None = None,
    training: TrainingConfig | Mapping[str, Any] | None = None,
    memory: MemoryConfig | Mapping[str, Any] | None = None,
    *,
    whole: bool = True,
) -> dict[str, Any]:
    """Put the options that are given over a preset's.

    Weights, layers and image size of a preset are those of its own backbones: another backbone, for CLIP or for the
    memory, has its own defaults.

    Args:
        preset: Name of the preset.
        backbone: Name of CLIP; ``None`` for the preset's.
        pretrained: Its weights; ``None`` for the preset's.
        prompts: Options for the preset's, or a mapping of them.
        training: As ``prompts``.
        memory: As ``prompts``.
        whole: Whether images are judged whole, without tiles or a region of interest: these stay in their place, where
            turned shots are none of them.

    Returns:
        Plain data, complete: ``preset``, ``backbone``, ``pretrained``, ``prompts``, ``training``, ``memory``. As
        arguments they give the same settings again.

    Raises:
        ValueError: If there is no such preset, an option is unknown or has a value that it cannot have, or two exclude
            each other.
    """
    values = read_preset(preset)
    given = {name: _options(name, each) for name, each in zip(GROUPS, (prompts, training, memory), strict=True)}
    if pretrained is None:
        pretrained = values["pretrained"] if backbone in {None, values["backbone"]} else DEFAULT
    if given["memory"].get("backbone", values["memory"]["backbone"]) != values["memory"]["backbone"]:
        values["memory"] |= dict.fromkeys(_OF_THE_BACKBONE, DEFAULT)
    settings = {
        "preset": preset,
        "backbone": values["backbone"] if backbone is None else backbone,
        "pretrained": str(pretrained),
        **{name: values[name] | options for name, options in given.items()},
    }
    _settle_memory(settings["memory"], given["memory"], whole=whole)
    _settle_training(settings["training"], given["training"], settings["memory"]["fusion"])
    return settings


def _settle_memory(memory: dict[str, Any], given: Mapping[str, Any], *, whole: bool) -> None:
    """Take back the preset's options of the memory that have no place here; refuse those that were asked for."""
    excluded = {}
    if not memory["enabled"]:
        reason = "needs the memory: leave it out, or give memory.enabled true"
        excluded = {"backbone": (NONE, reason), "fusion": ("paper", reason)}
    elif not whole:
        excluded = {"turns": (NONE, "turns whole shots, tiles and roi have their place in the image: leave out one")}
    for name, (value, reason) in excluded.items():
        if given.get(name, value) not in {value, "auto"}:
            msg = f"memory.{name} {given[name]} {reason}."
            raise ValueError(msg)
        memory[name] = value


def _settle_training(training: dict[str, Any], given: Mapping[str, Any], fusion: str) -> None:
    """Take back the preset's stop rule where no parts are weighed; refuse one that was asked for."""
    if training["stop_early"] and fusion != "weighted":
        if given.get("stop_early"):
            msg = "training.stop_early weighs the parts: leave it out, or give memory.fusion weighted."
            raise ValueError(msg)
        training["stop_early"] = False


def arguments_of(settings: Mapping[str, Any]) -> list[str]:
    """Return the arguments on the command line that a model with these settings is built by.

    Args:
        settings: Hyper-parameters of a model, or a result of :func:`resolve`.

    Returns:
        ``["--model.preset", "offline", "--model.memory.turns", "none"]``: the preset and the differences from it.
    """
    preset = resolve(settings["preset"], settings["backbone"], memory={"backbone": settings["memory"]["backbone"]})
    own = read_preset(settings["preset"])
    arguments = ["--model.preset", settings["preset"]]
    if settings["backbone"] != own["backbone"]:
        arguments += ["--model.backbone", settings["backbone"]]
    if settings["pretrained"] != preset["pretrained"]:
        arguments += ["--model.pretrained", settings["pretrained"]]
    for group in GROUPS:
        for name, value in settings[group].items():
            base = own[group] if name == "backbone" else preset[group]
            if value != base[name]:
                arguments += [f"--model.{group}.{name}", value if isinstance(value, str) else json.dumps(value)]
    return arguments


def _options(name: str, options: OptionGroup | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the given options of a group as plain data."""
    group = GROUPS[name]
    if options is None:
        return {}
    if isinstance(options, Mapping):
        known = [field.name for field in fields(group)]
        if unknown := sorted(set(options) - set(known)):
            msg = f"{name} has no option {unknown[0]!r}: it has {', '.join(known)}."
            raise ValueError(msg)
        options = group(**options)
    if not isinstance(options, group):
        msg = f"{name} must be a {group.__name__} or a mapping of its options, got {options!r}."
        raise ValueError(msg)
    return options.given()
