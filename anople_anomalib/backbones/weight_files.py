# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files of weights for networks of timm, in the layouts of timm, of transformers and of DINOv2's own repository.

The tensors get timm's names and must then be those of the network, each of its shape: where timm hands out features, it
leaves at random whatever it does not find.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg, load_state_dict

_PREFIX = r"^(?:(?:module|model|backbone|vit|dinov2|dinov2_with_registers|resnet)\.)+"
_NAMES = (
    # transformers: ViTModel, Dinov2Model, Dinov2WithRegistersModel
    (r"^embeddings\.", ""),
    (r"^patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^position_embeddings$", "pos_embed"),
    (r"^(?:encoder\.)?layers?\.(?=\d)", "blocks."),
    (r"\.attention(?:\.attention)?\.(?:q_proj|query)\.", ".attn.q."),
    (r"\.attention(?:\.attention)?\.(?:k_proj|key)\.", ".attn.k."),
    (r"\.attention(?:\.attention)?\.(?:v_proj|value)\.", ".attn.v."),
    (r"\.attention\.(?:o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(?:intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(?:output\.dense|mlp\.weights_out)\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    # DINOv2's own: blocks in chunks, and the gated network of the giant
    (r"^blocks\.\d+\.(?=\d)", "blocks."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    # transformers: ResNetModel
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d+)\.layers\.", lambda found: f"layer{int(found[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda found: f".conv{int(found[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda found: f".bn{int(found[1]) + 1}."),
)
_UNUSED = r"^(?:pooler|classifier|head|head_dist|fc|mask_token)(?:\.|$)|\.relative_position_index$|\.attn_mask$"
_RESIZED = r"pos_embed|rel_pos|relative_position_bias_table"  # timm brings them to the size of the images
_NAMED = 3  # tensors in an error message


def read_weights(file: Path, architecture: str, sizes: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Read the weights of a network as plain data, whatever their layout, under timm's names.

    Args:
        file: A file of ``torch.save``, or of safetensors where it ends in ``.safetensors``.
        architecture: Name of the network in timm.
        sizes: Further arguments of the network, such as the size of its images.

    Returns:
        The tensors without the classifier, as a network of no classes takes them. Only positions may have another size.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):  # a model that holds no values
        own = timm.create_model(architecture, pretrained=False, num_classes=0, **sizes).state_dict()
    tensors = _named_as(own, load_state_dict(str(file)))
    config = get_pretrained_cfg(architecture)
    layers: Any = (config and config.classifier) or ()
    unused = tuple(f"{layer}." for layer in ([layers] if isinstance(layers, str) else layers))
    tensors = {
        name: value
        for name, value in tensors.items()
        if name in own or not (name.startswith(unused) or re.search(_UNUSED, name))
    }
    faults = {
        "missing": [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")],
        "unknown": [name for name in tensors if name not in own],
        "of another shape": [
            name
            for name, value in tensors.items()
            if name in own and value.shape != own[name].shape and not re.search(_RESIZED, name)
        ],
    }
    if found := [f"{len(names)} {fault}: {_few(names)}" for fault, names in faults.items() if names]:
        msg = f"of {len(own)} tensors {'; '.join(found)}"
        raise ValueError(msg)
    return tensors


def _named_as(own: Collection[str], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by timm's names, as far as these names are known."""
    named: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        new = name if name in own else _renamed(re.sub(_PREFIX, "", name))
        if new in named:
            msg = f"two of its tensors would be {new}"
            raise ValueError(msg)
        named[new] = value
    for query in [name for name in named if ".attn.q." in name and name not in own]:
        split = [query.replace(".q.", f".{letter}.") for letter in "qkv"]
        if all(name in named for name in split):
            named[query.replace(".q.", ".qkv.")] = torch.cat([named.pop(name) for name in split])
    if "register_tokens" in named and {"cls_token", "pos_embed"} <= named.keys():  # timm has added the first position
        positions = named["pos_embed"]
        named["reg_token"] = named.pop("register_tokens")
        named["cls_token"], named["pos_embed"] = named["cls_token"] + positions[:, :1], positions[:, 1:]
    return named


def _renamed(name: str) -> str:
    """Return timm's name of a tensor of another layout; any other name as it is."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _few(names: Collection[str]) -> str:
    """List the first of some names, and the number of the others."""
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*list(names)[:_NAMED], *more])
