# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Backbones by name: open_clip models with plain transformers, and the bundled ``anople-tiny``.

open_clip's own code downloads, converts and loads the weights. Added here are the checks that turn an unfit
tower, a missing file or a missing network into a clear error message, and the rule that random weights are used only
when asked for by that word.
"""

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from anople_anomalib.utils.arguments import did_you_mean
from anople_anomalib.utils.files import READ_ERRORS, first_line
from anople_anomalib.utils.scoped import seeded

from .clip import FrozenCLIP
from .frozen import fingerprint_of

if TYPE_CHECKING:
    from .clip_normalization import Normalization

logger = logging.getLogger(__name__)

TINY = "anople-tiny"
"""Name of the small CLIP that ships inside the package."""

RANDOM = "random"
"""The word that asks for random weights, for tests and speed measurements only."""

DEFAULT_TAGS = {"ViT-B-16-plus-240": "laion400m_e32"}
"""Weights used when none are named; other models fall back on :data:`_TAG_PREFERENCE`."""

CLIP_MEAN, CLIP_STD = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
"""Normalization of the images that CLIP was trained on."""

TRUE_URLS = {
    ("ViT-B-16-plus-240", "laion400m_e32"): (
        "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/"
        "vit_b_16_plus_240-laion400m_e32-699c4b84.pt"
    )
}
"""Files of tags under which open_clip lists another file of the Hub: there this one leads to the weights of e31.

The name ends in the first eight digits of the SHA-256 of the file, which open_clip's download checks."""

_TAG_PREFERENCE = ("laion2b", "laion400m_e32")
_TINY_FOLDER = Path(__file__).parents[1] / "assets" / "anople_tiny"
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # of a tag that names a repository alone
_WEIGHT_SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".npz"}
_WEIGHT_ERRORS = (*READ_ERRORS, SafetensorError, AssertionError)
"""By the last one open_clip refuses a text tower of another width."""


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone."""

    name: str  # the backbone's name
    weights: str  # the tag, file or word that its weights came from
    clip: FrozenCLIP  # its frozen towers
    mean: tuple[float, float, float]  # mean of the image normalization, per channel
    std: tuple[float, float, float]  # standard deviation of the image normalization, per channel


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Load a backbone and freeze it.

    Args:
        name: An open_clip model name, or ``"anople-tiny"``.
        pretrained: ``None`` for the default weights; a tag of open_clip; the path of a checkpoint file; or
            ``"random"`` (seeded, the same in every process).

    Returns:
        The loaded backbone.

    Raises:
        ValueError: If the name or tag is unknown, the method does not fit the towers, or a file holds other weights.
        FileNotFoundError: If the weights are neither here nor to be downloaded.
    """
    model = load_clip(name, pretrained)
    mean = tuple(getattr(model.visual, "image_mean", None) or CLIP_MEAN)
    std = tuple(getattr(model.visual, "image_std", None) or CLIP_STD)
    unusual = "" if (mean, std) == (CLIP_MEAN, CLIP_STD) else f"{mean} {std}"  # stands beside a file, not in it
    return Backbone(
        name=name,
        weights=pretrained or default_weights(name),
        clip=FrozenCLIP(model, fingerprint_of(model.named_parameters(), unusual)),
        mean=mean,
        std=std,
    )


def load_clip(name: str, pretrained: str | None = None) -> nn.Module:
    """Load open_clip's CLIP with plain transformers as towers behind a backbone; as for :func:`load_backbone`."""
    if name != TINY:
        _check_architecture(name)
    weights = pretrained or default_weights(name)
    if weights == RANDOM:
        logger.warning("%s has random weights, as asked for: its detections mean nothing.", name)
        model = _create(name)
    elif name == TINY:
        model = _load_tiny(Path(weights))
    else:
        model = _load_open_clip(name, weights)
    _check_towers(name, model)
    return model


def default_weights(name: str) -> str:
    """Return the weights that ``pretrained=None`` stands for: a tag of open_clip, or the path of the bundled file.

    Raises:
        ValueError: If open_clip has no weights for the model.
    """
    if name == TINY:
        return str(_TINY_FOLDER / "open_clip_model.safetensors")
    if name in DEFAULT_TAGS:
        return DEFAULT_TAGS[name]
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        msg = f"open_clip has no weights for {name!r}: pass a checkpoint file as pretrained."
        raise ValueError(msg)
    return next((tag for start in _TAG_PREFERENCE for tag in tags if tag.startswith(start)), tags[0])


def get_tokenizer(name: str) -> Callable[[list[str]], torch.Tensor]:
    """Return the tokenizer of a backbone: texts to token numbers of shape ``(P, context length)``."""
    return open_clip.tokenize if name == TINY else open_clip.get_tokenizer(name)


def _create(name: str) -> nn.Module:
    """Create a model with random weights that are the same in every process."""
    with seeded(0):
        if name != TINY:
            return open_clip.create_model(name)
        config = json.loads((_TINY_FOLDER / "open_clip_config.json").read_text(encoding="utf-8"))
        return open_clip.CLIP(**config["model_cfg"])


def _load_tiny(path: Path) -> nn.Module:
    model = _create(TINY)
    _require_file(TINY, path)
    try:
        model.load_state_dict(load_file(path))
    except _WEIGHT_ERRORS as error:
        raise _unreadable(TINY, str(path), error) from error
    return model


def _load_open_clip(name: str, weights: str) -> nn.Module:
    """Load by open_clip's own code, from a tag or a file."""
    config = open_clip.pretrained.get_pretrained_cfg(name, weights)
    if not config:
        path = Path(weights)
        if path.suffix not in _WEIGHT_SUFFIXES and not path.is_file():
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            msg = f"pretrained must be a tag of {name} ({tags}), a checkpoint file or {RANDOM!r}, got {weights!r}."
            raise ValueError(msg)
        _require_file(name, path)
        from .clip_normalization import check_activation, normalization_of_file

        known = _tags(name)
        mean, std = normalization_of_file(name, path, _normalizations(known), (CLIP_MEAN, CLIP_STD))
        quick = bool(open_clip.get_model_config(name).get("quick_gelu"))
        check_activation(name, path, quick, known, open_clip.list_models())
    try:
        if (name, weights) in TRUE_URLS:
            file = open_clip.pretrained.download_pretrained_from_url(TRUE_URLS[name, weights])
            logger.info("Weights of %s: %s, its hash checked.", name, file)
            return open_clip.create_model(name, pretrained=file)
        if not config:
            is_plain, images = path.suffix == ".safetensors", {"mean": mean, "std": std}  # open_clip 2.24 unpickles it
            model = open_clip.create_model(name, None if is_plain else weights, force_preprocess_cfg=images)
            if is_plain:
                model.load_state_dict(load_file(path))
        else:
            repository, _, hub_file = config.get("hf_hub", "").rpartition("/")
            if repository:
                from anople_anomalib.utils.downloads import require_hub

                require_hub(repository, [hub_file] if hub_file else _HUB_FILES)
            gelu = bool(config.get("quick_gelu"))
            model = open_clip.create_model(name, pretrained=weights, force_quick_gelu=gelu)
    except _WEIGHT_ERRORS as error:
        if not config:
            raise _unreadable(name, weights, error) from error
        raise _unavailable(name, weights, error) from error
    logger.info("Weights of %s: %s", name, _source(name, weights) if config else weights)
    return model


def _normalizations(tags: dict[str, dict]) -> "dict[str, Normalization]":
    """Return the normalization of the images for each tag, by open_clip's entry of it."""
    return {
        tag: (tuple(config.get("mean") or CLIP_MEAN), tuple(config.get("std") or CLIP_STD))
        for tag, config in tags.items()
    }


def _tags(name: str) -> dict[str, dict]:
    """Return open_clip's entry of each tag of a model."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    return {tag: open_clip.pretrained.get_pretrained_cfg(name, tag) for tag in tags}


def _source(name: str, tag: str) -> str:
    """Return the file that a tag of open_clip stands for, in words."""
    config = open_clip.pretrained.get_pretrained_cfg(name, tag)
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    from_hub = f"{file or _HUB_FILES[0]} of {repository}" if repository else config.get("url", tag)
    return TRUE_URLS.get((name, tag), from_hub)


def _unavailable(name: str, tag: str, error: Exception) -> FileNotFoundError:
    problem = "are not in the cache and cannot be downloaded"
    if "SHA256" in str(error):
        problem = "were downloaded, but their SHA-256 is not the one in the file's name"
    other = " (--model.pretrained laion400m_e31 takes the file of the Hub, one epoch earlier)"
    return FileNotFoundError(
        f"The weights {tag!r} of {name} ({_source(name, tag)}) {problem}: connect to the internet once, pass a local "
        f"checkpoint file (--model.pretrained PATH), or use --model.backbone {TINY}, which needs no download"
        f"{other if (name, tag) in TRUE_URLS else ''}."
    )


def _require_file(name: str, path: Path) -> None:
    if not path.is_file():
        msg = f"The weights file {str(path)!r} for {name} does not exist: check the path given as pretrained."
        raise FileNotFoundError(msg)


def _unreadable(name: str, weights: str, error: Exception) -> ValueError:
    reason = first_line(error)
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's message advises to run the file's code
        reason = "it is damaged, or holds more than tensors"
    return ValueError(f"{weights!r} does not hold readable weights of {name} ({reason}).")


def _check_architecture(name: str) -> None:
    """Refuse unknown names and unfit towers before anything is built or downloaded."""
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        fitting = [known for known in open_clip.list_models() if not _misfit(open_clip.get_model_config(known))]
        meant = did_you_mean(name, [TINY, *fitting])
        msg = f"backbone must be {TINY!r} or a CLIP of open_clip ({', '.join(fitting)}), got {name!r}{meant}."
        raise ValueError(msg)
    if reason := _misfit(config):
        raise _unfit(name, reason)


def _misfit(config: dict) -> str | None:
    """Return why the method does not fit an architecture, or ``None`` if it does."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" in config:
        return "a CoCa model with a caption decoder"
    if "timm_model_name" in vision:
        return f"its visual tower {vision['timm_model_name']} comes from timm"
    if isinstance(vision.get("layers"), list):
        return "its visual tower is a ResNet"
    if "hf_model_name" in text:
        return f"its text tower {text['hf_model_name']} comes from transformers"
    if config.get("custom_text"):
        return "it has a custom text tower"
    if vision.get("attentional_pool") or vision.get("pool_type", "tok") != "tok":
        return "its visual tower does not pool by a CLS token"
    return None


def _check_towers(name: str, model: nn.Module) -> None:
    """Refuse built towers that lack a part which the prompted forward passes rely on."""
    fits = (
        isinstance(model.visual, VisionTransformer)
        and model.visual.attn_pool is None
        and getattr(model.visual, "proj", None) is not None
        and not getattr(model.visual, "final_ln_after_pool", False)
        and getattr(model, "text_pool_type", "argmax") == "argmax"
        and getattr(model, "attn_mask", None) is not None
    )
    if not fits:
        raise _unfit(name, "its towers are not the plain transformers of CLIP")


def _unfit(name: str, reason: str) -> ValueError:
    return ValueError(
        f"AnoPLe does not fit the backbone {name}: {reason}; it needs a CLIP with a plain vision transformer and a "
        "causal text transformer, such as ViT-B-16-plus-240, ViT-B-16, ViT-B-32 or ViT-L-14."
    )
