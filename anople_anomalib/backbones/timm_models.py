# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Models of timm whose weights are handed over as tensors."""

from typing import TypeVar

from torch import nn

_Model = TypeVar("_Model", bound=nn.Module)


def forget_weights(model: _Model) -> _Model:
    """Drop the weights that timm keeps in a model's configuration, which would be copied and pickled with it.

    Args:
        model: A model that was built with a ``state_dict`` in its configuration, or any other.

    Returns:
        The model.
    """
    for module in model.modules():
        config = getattr(module, "pretrained_cfg", None)  # default_cfg is the same dictionary
        if isinstance(config, dict):
            config.pop("state_dict", None)
    return model
