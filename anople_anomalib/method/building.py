# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Parts of the model from resolved settings, see :func:`anople_anomalib.presets.resolve`."""

import logging
from collections.abc import Mapping
from typing import Any

from anople_anomalib.backbones.clip_loading import Backbone, load_backbone
from anople_anomalib.config import AUTO, DEFAULT, NONE

from .anomaly_simulation import PixelAnomalySimulator
from .fusion import PaperFusion, WeightedFusion
from .layers import resolve_memory_layers, resolve_prompt_depth
from .second_memory import SecondMemory
from .torch_model import AnoPLeModel
from .views import num_views

logger = logging.getLogger(__name__)


def with_image_size(settings: dict[str, Any], k_shot: int | None) -> dict[str, Any]:
    """Put a number in the place of ``memory.image_size: auto`` of resolved settings, which a checkpoint keeps."""
    memory = settings["memory"]
    if memory["backbone"] == NONE or memory["image_size"] != AUTO:
        return settings
    from .image_sizes import finest_image_size

    size = finest_image_size(memory, k_shot)
    logger.info("memory.image_size: %d, the finest within the budget of an image.", size)
    return settings | {"memory": memory | {"image_size": size}}


def build_backbone(settings: Mapping[str, Any]) -> Backbone:
    """Load the frozen CLIP of resolved settings, with the normalization of its images.

    Raises:
        ValueError: If the name or the weights are unknown, or the method does not fit the towers.
        FileNotFoundError: If the weights are neither here nor to be downloaded.
    """
    loaded = load_backbone(settings["backbone"], _own(settings["pretrained"]))
    loaded.clip.set_grad_checkpointing(settings["training"]["gradient_checkpointing"])
    return loaded


def build_second_memory(settings: Mapping[str, Any], loaded: Backbone) -> SecondMemory | None:
    """Build the memory of another backbone's features, which takes images normalized for CLIP.

    Args:
        settings: Resolved settings.
        loaded: See :func:`build_backbone`.

    Returns:
        The memory, empty; ``None`` where there is no second backbone.

    Raises:
        ValueError: If layers or image size do not fit the backbone.
        FileNotFoundError: If its weights are neither here nor to be downloaded.
    """
    memory = settings["memory"]
    if memory["backbone"] == NONE:
        return None
    from anople_anomalib.backbones.timm_features import load_memory_backbone

    features = load_memory_backbone(
        memory["backbone"],
        loaded.mean,
        loaded.std,
        _own(memory["backbone_layers"]),
        _own(memory["image_size"]),
        _own(memory["pretrained"]),
    )
    return SecondMemory(
        features,
        memory["coreset_ratio"],
        memory["position_weight"],
        memory["turns"],
        memory["per_category"],
        memory["subspace"],
    )


def build_model(settings: Mapping[str, Any], loaded: Backbone, second_memory: SecondMemory | None) -> AnoPLeModel:
    """Build the PyTorch model around a loaded CLIP; its first prompts depend on the present random state.

    Args:
        settings: Resolved settings.
        loaded: See :func:`build_backbone`.
        second_memory: See :func:`build_second_memory`.

    Returns:
        The model, untrained.

    Raises:
        ValueError: If the settings do not fit the towers.
    """
    prompts, training, memory = settings["prompts"], settings["training"], settings["memory"]
    visual, text, decoder = loaded.clip.visual, loaded.clip.text, training["decoder"]
    return AnoPLeModel(
        loaded.clip,
        text_context_length=prompts["text_context_length"],
        visual_context_length=prompts["visual_context_length"],
        prompt_depth=resolve_prompt_depth(prompts["depth"], visual.depth, text.depth),
        coupling=prompts["coupling"],
        num_views=num_views(training["multi_view"]),
        view_signal=prompts["view_signal"],
        use_decoder=decoder != NONE,
        memory_layers=resolve_memory_layers(memory["layers"], visual.depth) if memory["enabled"] else (),
        residual_decoder=decoder == "residual",
        coreset_sampling_ratio=memory["coreset_ratio"],
        memory_per_category=memory["per_category"],
        second_memory=second_memory,
        fusion=(WeightedFusion if memory["fusion"] == "weighted" else PaperFusion)(memory["score_share"]),
        image_logit_scale=None if training["image_logit_scale"] == "clip" else training["image_logit_scale"],
        pixel_logits="cosine" if decoder == NONE else training["pixel_logits"],
    )


def build_simulator(settings: Mapping[str, Any]) -> PixelAnomalySimulator | None:
    """Build the simulator of anomalies in images, by resolved settings; ``None`` where there are none.

    Raises:
        FileNotFoundError: If the anomaly source is not there.
    """
    training = settings["training"]
    if not training["pixel_anomalies"]:
        return None
    paired = training["paired_anomalies"]
    return PixelAnomalySimulator(training["anomaly_source"], 1.0 if paired else 0.5, paired)


def _own(value: Any) -> Any:
    """Return ``None``, by which a backbone takes its own, for the word that says so."""
    return None if value == DEFAULT else value
