# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of AnoPLe: three groups of options that change a preset, see :mod:`anople_anomalib.presets`.

Every option of a group is ``None`` until it is given, and ``None`` has one meaning: the preset's value. The word
``"none"`` switches something off (``memory.backbone``, ``training.decoder``), the word ``"default"`` leaves a choice to
the backbone that it is about (its weights, layers, image size).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from pathlib import Path
from typing import Any

from .utils.arguments import (
    FILE,
    FLAG,
    LAYERS,
    NAME,
    PART,
    POSITIVE,
    POSITIVE_SHARE,
    RATE,
    SHARE,
    WORDS,
    Rule,
    choice,
    either,
    integer,
)

NONE = "none"
"""The word that switches something off."""

DEFAULT = "default"
"""The word that leaves a choice to the backbone that it is about."""

AUTO = "auto"
"""The word that leaves a choice to the shots, or to a budget."""

COUPLINGS = ("bidirectional", "text_to_image", "image_to_text", "independent", "text_only", "image_only")
"""The rows of Table 3 (a)."""
DECODERS = ("plain", "residual", NONE)
ALIGNMENTS = ("weighted_sum", "mean", NONE)
"""The rows of Table 3 (c)."""
PIXEL_LOGITS = ("dot", "cosine")
"""The readings of ``<D(z), w>`` in equation (7)."""
TURNS = ("auto", "right_angles", "mirrored", NONE)
FUSIONS = ("paper", "weighted")

_TURNS = Rule(
    lambda value: value in TURNS or (type(value) is int and value > 0 and value % 15 == 0 and 360 % value == 0),
    f"one of {', '.join(TURNS)}, or a multiple of 15 degrees that divides 360",
)


def _option(rule: Rule) -> Any:
    """Return an option that is not given, with its allowed values."""
    return field(default=None, metadata={"rule": rule})


@dataclass(frozen=True)
class OptionGroup:
    """Options that belong together; a subclass is a frozen dataclass whose fields are all ``None`` by default."""

    def __post_init__(self) -> None:
        """Check the given values.

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
class PromptConfig(OptionGroup):
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

    text_context_length: int | None = _option(integer(0))
    visual_context_length: int | None = _option(integer(0))
    depth: int | None = _option(integer(1))
    coupling: str | None = _option(choice(*COUPLINGS))
    state_word: str | Sequence[str] | None = _option(WORDS)
    view_signal: bool | None = _option(FLAG)


@dataclass(frozen=True)
class TrainingConfig(OptionGroup):
    """Losses, simulated anomalies and optimization; ``None`` is the preset's value.

    Args:
        epochs: Number of epochs where the trainer is given none.
        stop_early: Whether teaching ends where prompts and decoder add nothing to the memories on defects simulated on
            the shots, looked at after 1, 2, 4, 8 ... epochs; both are left out then. For the weighted fusion.
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

    epochs: int | None = _option(integer(1))
    stop_early: bool | None = _option(FLAG)
    prompt_lr: float | None = _option(RATE)
    decoder_lr: float | None = _option(RATE)
    decoder: str | None = _option(choice(*DECODERS))
    multi_view: bool | None = _option(FLAG)
    alignment: str | None = _option(choice(*ALIGNMENTS))
    pixel_anomalies: bool | None = _option(FLAG)
    latent_anomalies: bool | None = _option(FLAG)
    paired_anomalies: bool | None = _option(FLAG)
    anomaly_source: str | Path | None = _option(FILE)
    image_logit_scale: float | str | None = _option(either("clip", POSITIVE))
    pixel_logits: str | None = _option(choice(*PIXEL_LOGITS))
    gradient_checkpointing: bool | None = _option(FLAG)
    seed: int | None = _option(integer(0))


@dataclass(frozen=True)
class MemoryConfig(OptionGroup):
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
        image_size: Side of the images that it sees; ``"default"`` for its own, or ``"auto"`` for the finest that the
            budget of an image allows, see :mod:`.method.image_sizes`.
        position_weight: How much farther a patch of its memory counts at another place of the image; 0 for features
            alone.
        turns: Copies of the shots in its memory: ``"none"``, ``"mirrored"``, ``"right_angles"`` (mirrored and not), the
            degrees n of turns by every n degrees, a multiple of 15 that divides 360, or ``"auto"``, by which the shots
            choose: every 30 degrees where several shots show that parts lie at any angle, else those by right angles
            that are hardly farther from their shot than slightly moved ones.
            Beside tiles or a region of interest there are none.
        subspace: Share of the variance of its features that is taken for the difference between normal patches: a patch
            counts as the farther, the more it leaves the subspace that explains this share, and the less its own image
            repeats it. 0 for neither; below 1.
        fusion: ``"paper"`` for equations (12) and (14), or ``"weighted"``, by weights that the parts earn on anomalies
            simulated on the shots.
        score_share: Share of the largest values of the map whose mean stands for the image; 0 for the maximum.
    """

    enabled: bool | None = _option(FLAG)
    layers: Sequence[int] | None = _option(LAYERS)
    coreset_ratio: float | None = _option(POSITIVE_SHARE)
    per_category: bool | None = _option(FLAG)
    backbone: str | None = _option(NAME)
    pretrained: str | Path | None = _option(FILE)
    backbone_layers: Sequence[int] | str | None = _option(either(DEFAULT, LAYERS))
    image_size: int | str | None = _option(either(DEFAULT, either(AUTO, integer(32))))
    position_weight: float | None = _option(RATE)
    turns: str | int | None = _option(_TURNS)
    subspace: float | None = _option(PART)
    fusion: str | None = _option(choice(*FUSIONS))
    score_share: float | None = _option(SHARE)


GROUPS: Mapping[str, type[OptionGroup]] = {"prompts": PromptConfig, "training": TrainingConfig, "memory": MemoryConfig}
"""The groups by the name of their argument."""

_NAMES = {group: name for name, group in GROUPS.items()}


def _plain(value: Any) -> Any:
    """Turn sequences into lists and paths into text, plain data for a checkpoint's hyper-parameters."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Integral) and not isinstance(value, bool):  # NumPy's are no plain data
        return int(value)
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
