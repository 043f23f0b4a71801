# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Models of timm that hand out their features, for the second memory and for the baselines alike.

timm builds the models, downloads the weights and hands out the features of convolutional networks and transformers by
one interface (``FeatureGetterNet``). Added here are the weights that need no network and one error message for
whatever is missing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import PretrainedCfg, VisionTransformer, get_pretrained_cfg, is_model, vision_transformer
from torch import nn

from anople_anomalib.utils.downloads import require_hub
from anople_anomalib.utils.files import first_line
from anople_anomalib.utils.scoped import seeded

from .clip_loading import RANDOM
from .package_weights import LITE2, PACKAGE_WEIGHTS, forget_weights, package_weights
from .weight_files import read_weights

logger = logging.getLogger(__name__)

OPTION = "memory.backbone"
"""Name of the option, for error messages."""

NO_BACKBONE = "none"
"""The word that asks for no second backbone."""

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # of weights that name a repository alone
_NO_FEATURES = (RuntimeError, AttributeError, AssertionError, TypeError, NotImplementedError)


def require_known(name: str, option: str = OPTION) -> PretrainedCfg:
    """Return the settings of a network's weights: the size and the normalization of its images among them.

    Args:
        name: A model name of timm, or one of :data:`.package_weights.PACKAGE_WEIGHTS`.
        option: Name of the user's option, for the error message.

    Raises:
        ValueError: If timm lacks the name or its tag.
    """
    architecture = _architecture(name)
    try:
        config = get_pretrained_cfg(architecture, allow_unregistered=False) if is_model(architecture) else None
    except RuntimeError:  # a known architecture with an unknown tag
        config = None
    if config is None:
        none = f" or {NO_BACKBONE!r}" if option == OPTION else ""
        msg = (
            f"{option} must be {LITE2!r}, a model name of timm such as 'wide_resnet50_2' or "
            f"'vit_small_patch14_reg4_dinov2.lvd142m'{none}, got {name!r}{_hint(name)}."
        )
        raise ValueError(msg)
    return config


def feature_layers(name: str, option: str = OPTION, sizes: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return the stride of every layer whose features a network hands out, by the layer's name, from fine to coarse.

    Args:
        name: A known name; one that tells no features is a ``ValueError``.
        option: Name of the user's option, for the error message.
        sizes: Arguments of a transformer whose image has another size than its own.
    """
    try:
        return _strides(name, tuple((sizes or {}).items()))
    except _NO_FEATURES as error:
        msg = f"{option} {name} does not tell its intermediate features ({first_line(error)}): take another."
        raise ValueError(msg) from error


def load_features(
    name: str,
    indices: Sequence[int],
    weights: str | None = None,
    option: str = OPTION,
    sizes: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build timm's model that hands out the features of some layers, without the layers that follow the last of them.

    Args:
        name: A known name.
        indices: 0-based numbers of the layers.
        weights: ``None`` for the pretrained ones; the path of a file; or ``"random"``.
        option: Name of the user's option, for the error message.
        sizes: As for :func:`feature_layers`.

    Returns:
        A module from normalized images to a list of maps, one per layer, each of shape ``(B, C_i, H_i, W_i)``.

    Raises:
        ValueError: If the weights are not readable.
        FileNotFoundError: If the weights are neither here nor to be downloaded.
    """
    architecture, sizes = _architecture(name), sizes or {}
    if weights == RANDOM:
        logger.warning("%s has random weights, as asked for: its detections mean nothing.", name)
        with seeded(0):
            return bare_features(name, indices, sizes)
    if weights is not None:
        return _with_file(name, indices, weights, sizes)
    overlay = {"state_dict": package_weights(name)} if name in PACKAGE_WEIGHTS else None
    try:
        if overlay is None and (source := hub_source(name)) is not None:
            require_hub(*source)
        return _build(architecture, indices, sizes, pretrained=True, overlay=overlay)
    except Exception as error:  # hubs and timm raise whatever they like
        file = "pass a local file (--model.memory.pretrained PATH), " if option == OPTION else ""
        msg = (
            f"The weights of {option} {name} are not in the cache and cannot be downloaded ({first_line(error)}): "
            f"connect to the internet once, {file}or use --model.{option} {LITE2}, which needs no download."
        )
        raise FileNotFoundError(msg) from error


def _with_file(name: str, indices: Sequence[int], weights: str, sizes: Mapping[str, Any]) -> nn.Module:
    """Build such a model with the weights of a file."""
    architecture = _architecture(name)
    if not Path(weights).is_file():
        msg = f"The weights file {weights!r} for {name} does not exist: check the path given as memory.pretrained."
        raise FileNotFoundError(msg)
    try:
        tensors = read_weights(Path(weights), architecture, sizes)
        overlay = {"state_dict": tensors, "num_classes": 0, "classifier": None}  # without which timm is not strict
        return _build(architecture, indices, sizes, pretrained=True, overlay=overlay)
    except Exception as error:  # safetensors, torch and timm raise whatever they like
        msg = f"{weights!r} does not hold the weights of {name} ({first_line(error)}): give its own file."
        raise ValueError(msg) from error


@cache  # a model is built for it twice
def _strides(name: str, sizes: tuple[tuple[str, Any], ...]) -> dict[str, int]:
    """Return what :func:`feature_layers` does."""
    with torch.device("meta"):  # a model that holds no values
        info: Any = timm.create_model(_architecture(name), pretrained=False, **dict(sizes)).feature_info
        bare_features(name, range(len(info)), dict(sizes))
        return {layer["module"]: int(layer["reduction"]) for layer in info}


def bare_features(name: str, indices: Sequence[int], sizes: Mapping[str, Any]) -> nn.Module:
    """Build such a model without weights, as on torch's meta device; arguments as for :func:`load_features`."""
    return _build(_architecture(name), indices, sizes, pretrained=False)


def hub_source(name: str) -> tuple[str, Sequence[str]] | None:
    """Return the Hub's repository with a network's weights and its files, of which one is needed; ``None`` for none."""
    config = get_pretrained_cfg(_architecture(name))
    if config is None or not config.hf_hub_id:
        return None
    return config.hf_hub_id, [config.hf_hub_filename] if config.hf_hub_filename else _HUB_FILES


def _architecture(name: str) -> str:
    """Return timm's name of a network."""
    return PACKAGE_WEIGHTS[name].architecture if name in PACKAGE_WEIGHTS else name


def _hint(name: str) -> str:
    """Return the known name that a wrong one resembles, as a question."""
    stem = name.split(".", 1)[0]
    known = get_close_matches(stem, [*PACKAGE_WEIGHTS, NO_BACKBONE, *timm.list_models()], n=1)
    tags = timm.list_pretrained(f"{stem}.*") if is_model(stem) else []
    close = get_close_matches(name, tags, n=1, cutoff=0.0) or known
    return f" (did you mean {close[0]!r}?)" if close else ""


def _build(
    architecture: str,
    indices: Sequence[int],
    sizes: Mapping[str, Any],
    pretrained: bool,
    overlay: dict[str, Any] | None = None,
) -> nn.Module:
    """Build timm's model that hands out features."""
    model = timm.create_model(
        architecture,
        pretrained=pretrained,
        pretrained_cfg_overlay=overlay,
        features_only=True,
        feature_cls="getter",
        out_indices=tuple(indices),
        **sizes,
    )
    network: Any = model.get_submodule("model")
    if pretrained and sizes and isinstance(network, VisionTransformer) and network.pos_embed is not None:
        exchanged: Any = vars(vision_transformer)["resample_abs_pos_embed"]
        if exchanged is not resample_abs_pos_embed:
            own = overlay["state_dict"] if overlay else timm.create_model(architecture, pretrained=True).state_dict()
            _resize_positions(network, own["pos_embed"], exchanged)
    return forget_weights(model)


@torch.no_grad()
def _resize_positions(network: Any, own: torch.Tensor, exchanged: Callable[..., torch.Tensor]) -> None:
    """Give a vision transformer the positions that it has where nobody has exchanged timm's function that resizes them.

    anomalib's ``TimmFeatureExtractor`` does, by one without antialiasing and for the whole process; what it put there
    stays. Positions that are not what it makes of the own ones (FlexiViT's, RADIO's) are never antialiased.

    Args:
        network: The transformer, with weights.
        own: Positions as they came, shape ``(1, n, D)``.
        exchanged: The function in the place of timm's.
    """
    size, prefix = network.patch_embed.grid_size, 0 if network.no_embed_class else network.num_prefix_tokens
    resized = exchanged(own, size, num_prefix_tokens=prefix).to(network.pos_embed)
    if torch.equal(network.pos_embed, resized):
        network.pos_embed.copy_(resample_abs_pos_embed(own, size, num_prefix_tokens=prefix))
