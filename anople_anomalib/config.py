# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of AnoPLe: the presets under ``presets``, and the three groups of options that change one.

Every option of a group is ``None`` until it is given, and ``None`` has one meaning: the preset's value. The word
``"none"`` switches something off (``memory.backbone``, ``training.decoder``), the word ``"default"`` leaves a choice to
the backbone that it is about (its weights, layers, image size).

Example:
    >>> from anople_anomalib.config import MemoryConfig, resolve
    >>> settings = resolve("offline", memory=MemoryConfig(turns="none"))
    >>> settings["memory"]["turns"], settings["memory"]["backbone"]
    ('none', 'efficientnet-lite2')
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from .utils.arguments import FILE, FLAG, LAYERS, NAME, RATE, WORDS, Rule, choice, either, integer, is_number

NONE = "none"
"""The word that switches something off."""

DEFAULT = "default"
"""The word that leaves a choice to the backbone that it is about."""

COUPLINGS = ("bidirectional", "text_to_image", "image_to_text", "independent", "text_only", "image_only")
DECODERS = ("plain", "residual", NONE)
ALIGNMENTS = ("weighted_sum", "mean", NONE)
PIXEL_LOGITS = ("dot", "cosine")
TURNS = ("auto", "right_angles", "mirrored", NONE)
FUSIONS = ("paper", "weighted")


@dataclass(frozen=True)
class _Group:
    """Options that belong together; a subclass is a frozen dataclass whose fields are all ``None`` by default."""

    def __post_init__(self) -> None:
        """Check what is given.

        Raises:
            ValueError: If an option has a value that it cannot have.
        """
        group = _NAMES[type(self)]
        for option in fields(self):
            value, rule = vars(self)[option.name], option.metadata["rule"]
            if value is not None and not rule.allows(value):
                msg = f"{group}.{option.name} must be {rule.text}, got {value!r}."
                raise ValueError(msg)

    def given(self) -> dict[str, Any]:
        """Return the options that are given, as plain data."""
        return {name: _plain(value) for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PromptConfig(_Group):
    """The learned prompts and the words beside them (section 3.3 of the paper); ``None`` is the preset's value.

    Args:
        text_context_length: Number C_t of text prompts per layer.
        visual_context_length: Number C_v of visual prompts per layer.
        depth: Number J of prompted layers; the paper's 9 of 12 is scaled to shallower towers.
        coupling: ``"bidirectional"``, ``"text_to_image"``, ``"image_to_text"``, ``"independent"``, ``"text_only"`` or
            ``"image_only"`` (Table 3a).
        state_word: Word of the abnormal prompt, several words for their ensemble, or ``"compositional"``.
        view_signal: Whether a signal c tells the views apart (Table 3b).
    """

    text_context_length: int | None = field(default=None, metadata={"rule": integer(0)})
    visual_context_length: int | None = field(default=None, metadata={"rule": integer(0)})
    depth: int | None = field(default=None, metadata={"rule": integer(1)})
    coupling: str | None = field(default=None, metadata={"rule": choice(*COUPLINGS)})
    state_word: str | Sequence[str] | None = field(default=None, metadata={"rule": WORDS})
    view_signal: bool | None = field(default=None, metadata={"rule": FLAG})


@dataclass(frozen=True)
class TrainingConfig(_Group):
    """Losses, simulated anomalies and optimization; ``None`` is the preset's value.

    Args:
        epochs: Number of epochs where the trainer is given none.
        prompt_lr: Learning rate of the prompts.
        decoder_lr: Learning rate of the decoder.
        decoder: ``"plain"`` for the paper's, ``"residual"`` for one that refines CLIP's own projection of the patch
            tokens, or ``"none"``: the loss is the image-level term alone.
        multi_view: Whether sub-images are views, too.
        alignment: ``"weighted_sum"``, ``"mean"`` or ``"none"`` (Table 3c).
        pixel_anomalies: Whether anomalies are simulated in the image.
        latent_anomalies: Whether anomalies are simulated on the embedding (Table 5).
        paired_anomalies: Whether a step sees an image both whole and damaged, as equation (9) has z+ and z-; else one
            image, damaged with probability one half.
        anomaly_source: Content of the simulated anomalies: ``"photographs"`` (of scikit-image, no download), ``"dtd"``
            (as in DRAEM; downloaded once), ``"noise"``, or a folder of texture images.
        image_logit_scale: Factor of the cosines of equation (8), 1 / tau; ``"clip"`` for CLIP's own.
        pixel_logits: Comparison of D(z) with the texts: ``"dot"``, as equation (7) is written, or ``"cosine"``. Without
            a decoder it is the cosine, by which CLIP compares its own projection.
        gradient_checkpointing: Whether the towers keep no values inside their blocks for the backward pass: less
            memory, more time, the same result.
        seed: Seed of the initial prompts, the simulated anomalies and the order of the shots.
    """

    epochs: int | None = field(default=None, metadata={"rule": integer(1)})
    prompt_lr: float | None = field(default=None, metadata={"rule": RATE})
    decoder_lr: float | None = field(default=None, metadata={"rule": RATE})
    decoder: str | None = field(default=None, metadata={"rule": choice(*DECODERS)})
    multi_view: bool | None = field(default=None, metadata={"rule": FLAG})
    alignment: str | None = field(default=None, metadata={"rule": choice(*ALIGNMENTS)})
    pixel_anomalies: bool | None = field(default=None, metadata={"rule": FLAG})
    latent_anomalies: bool | None = field(default=None, metadata={"rule": FLAG})
    paired_anomalies: bool | None = field(default=None, metadata={"rule": FLAG})
    anomaly_source: str | Path | None = field(default=None, metadata={"rule": FILE})
    image_logit_scale: float | str | None = field(
        default=None,
        metadata={
            "rule": either("clip", Rule(lambda value: is_number(value) and value > 0, "a finite number above 0"))
        },
    )
    pixel_logits: str | None = field(default=None, metadata={"rule": choice(*PIXEL_LOGITS)})
    gradient_checkpointing: bool | None = field(default=None, metadata={"rule": FLAG})
    seed: int | None = field(default=None, metadata={"rule": integer(0)})


@dataclass(frozen=True)
class MemoryConfig(_Group):
    """The memory of the shots' patch features, and its fusion with the prompts; ``None`` is the preset's value.

    Args:
        enabled: Whether the memory takes part.
        layers: 1-based numbers of the layers of the prompted CLIP that make the memory; those of the presets are of 12
            layers and scaled to other depths.
        coreset_ratio: Share of the patch features that the memory keeps, chosen by k-center-greedy; in (0, 1].
        per_category: Whether an image is compared with the shots of one category, the one whose patches are nearest to
            it on average, instead of with those of all.
        backbone: A second, frozen backbone whose features join the memory: a model name of timm, or
            ``"efficientnet-lite2"``, whose weights need no download; ``"none"`` for none.
        pretrained: Weights of the second backbone: ``"default"`` for its pretrained ones, the path of a file, or
            ``"random"``.
        backbone_layers: 1-based numbers of its stages (convolutional) or blocks (transformer); ``"default"`` for the
            stages with strides 8 and 16, or for the last block.
        image_size: Side of the images that it sees; ``"default"`` for its own.
        position_weight: How much farther a patch of its memory counts at another place of the image; 0 for features
            alone.
        turns: Copies of the shots in its memory: ``"none"``, ``"mirrored"``, ``"right_angles"`` (mirrored and not), the
            degrees n of turns by every n degrees, a multiple of 15 that divides 360, or ``"auto"``, by which the shots
            choose: every 30 degrees where several shots show that parts lie at any angle, else those by right angles
            that are hardly farther from their shot than slightly moved ones.
            Beside tiles or a region of interest there are none.
        subspace: Share of the variance of its features that is taken for the difference between normal patches: a patch
            counts as the farther, the more it leaves the subspace that explains this share. 0 for none; below 1.
        fusion: ``"paper"`` for equations (12) and (14), or ``"weighted"``, by weights that the parts earn on anomalies
            simulated on the shots.
        score_share: Share of the largest values of the map whose mean stands for the image; 0 for the maximum.
    """

    enabled: bool | None = field(default=None, metadata={"rule": FLAG})
    layers: Sequence[int] | None = field(default=None, metadata={"rule": LAYERS})
    coreset_ratio: float | None = field(
        default=None,
        metadata={"rule": Rule(lambda value: is_number(value) and 0 < value <= 1, "above 0 and at most 1")},
    )
    per_category: bool | None = field(default=None, metadata={"rule": FLAG})
    backbone: str | None = field(default=None, metadata={"rule": NAME})
    pretrained: str | Path | None = field(default=None, metadata={"rule": FILE})
    backbone_layers: Sequence[int] | str | None = field(default=None, metadata={"rule": either(DEFAULT, LAYERS)})
    image_size: int | str | None = field(default=None, metadata={"rule": either(DEFAULT, integer(32))})
    position_weight: float | None = field(default=None, metadata={"rule": RATE})
    turns: str | int | None = field(
        default=None,
        metadata={
            "rule": Rule(
                lambda value: (
                    value in TURNS or (type(value) is int and value > 0 and (value % 15 == 0) and (360 % value == 0))
                ),
                f"one of {', '.join(TURNS)}, or a multiple of 15 degrees that divides 360",
            )
        },
    )
    subspace: float | None = field(
        default=None,
        metadata={
            "rule": Rule(
                lambda value: is_number(value) and 0 <= value < 1, "0 for none or a share of the variance below 1"
            )
        },
    )
    fusion: str | None = field(default=None, metadata={"rule": choice(*FUSIONS)})
    score_share: float | None = field(
        default=None, metadata={"rule": Rule(lambda value: is_number(value) and 0 <= value <= 1, "between 0 and 1")}
    )


GROUPS: Mapping[str, type[_Group]] = {"prompts": PromptConfig, "training": TrainingConfig, "memory": MemoryConfig}
"""The groups by the name of their argument."""

_NAMES = {group: name for name, group in GROUPS.items()}
_PRESET_KEYS = {"title", "backbone", "pretrained", *GROUPS}
_OF_THE_BACKBONE = ("pretrained", "backbone_layers", "image_size")  # options of the memory


def preset_names() -> list[str]:
    """Return the names of the presets, ``"paper"``, the default, first."""
    names = [Path(file.name).stem for file in _folder().iterdir() if file.name.endswith(".yaml")]
    return sorted(names, key=lambda name: (name != "paper", name))


@cache
def _read(preset: str) -> Mapping[str, Any]:
    """Read and check a preset."""
    content = yaml.safe_load((_folder() / f"{preset}.yaml").read_text(encoding="utf-8"))
    _require_keys(f"The preset {preset!r}", content, _PRESET_KEYS)
    for name, group in GROUPS.items():
        _require_keys(f"{name} of the preset {preset!r}", content[name], {field.name for field in fields(group)})
        group(**content[name])
    return content


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
    given = {
        name: _options(name, options)
        for name, options in (("prompts", prompts), ("training", training), ("memory", memory))
    }
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


def _options(name: str, options: _Group | Mapping[str, Any] | None) -> dict[str, Any]:
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


def _require_keys(where: str, content: Any, keys: set[str]) -> None:
    """Refuse a preset with missing or unknown keys, or without a value for one."""
    found = {key for key, value in content.items() if value is not None} if isinstance(content, Mapping) else set()
    if found != keys:
        wrong = ", ".join(sorted(found ^ keys)) or "nothing"
        msg = f"{where} must have values for {', '.join(sorted(keys))} and nothing else: see {wrong}."
        raise ValueError(msg)


def _plain(value: Any) -> Any:
    """Turn sequences into lists and paths into text, plain data for a checkpoint's hyper-parameters."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _folder() -> Any:  # importlib.resources.abc is named otherwise in Python 3.10
    return files("anople_anomalib") / "presets"
