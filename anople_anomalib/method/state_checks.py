# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of weights, losses and parts, before they overwrite a model, spoil one, or are missed in one."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

_Part = TypeVar("_Part")
_OF_ANY_LENGTH = "memory_bank.features"
"""The buffer whose number of rows is that of the checkpoint."""


def check_state(module: nn.Module, state_dict: Mapping[str, Any], prefix: str = "", strict: bool = True) -> None:
    """Refuse weights that do not fit a module, before the first one is overwritten.

    PyTorch's own check comes last, when all that fits has been copied.

    Args:
        module: What the weights are to be loaded into.
        state_dict: The weights.
        prefix: Prefix of the module's names in them.
        strict: Whether all names must be there and no others.

    Raises:
        ValueError: If a name is missing or unknown, or a tensor is of another shape or kind or holds numbers that are
            not finite. Statistics outside the model may be NaN: anomalib starts them so.
    """
    own = module.state_dict()
    given = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    problem = next((f"{name} {wrong}" for name, value in own.items() if (wrong := _misfit(name, value, given))), None)
    odd = own.keys() ^ given.keys()
    if problem is None and strict and odd:
        name = min(odd)
        problem = f"{name} is {'missing' if name in own else 'not part of it'}"
    if problem is not None:
        msg = (
            f"The weights do not fit this AnoPLe ({problem}): build the model with the arguments that it was trained "
            "with, or take another checkpoint."
        )
        raise ValueError(msg)


def _misfit(name: str, own: torch.Tensor, given: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a given tensor, or ``None`` if it fits or is absent."""
    if name not in given:
        return None
    value = given[name]
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return "is not a plain tensor"
    rows = 1 if name.endswith(_OF_ANY_LENGTH) else 0
    if value.dim() != own.dim() or value.shape[rows:] != own.shape[rows:]:
        return f"has shape {tuple(value.shape)} instead of {tuple(own.shape)}"
    same_kind = value.is_floating_point() if own.is_floating_point() else value.dtype == own.dtype
    if not same_kind or not value.is_contiguous():
        return f"is of kind {value.dtype} instead of {own.dtype}, or not contiguous"
    is_statistic = name.startswith(("post_processor.", "pre_processor.", "evaluator."))
    if value.is_floating_point() and not is_statistic and not value.isfinite().all():
        return "holds numbers that are not finite"
    return None


def require_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Stop a training run that has diverged.

    Args:
        tensors: Losses or weights by name.
        where: What they are, as the subject of the error message.

    Raises:
        FloatingPointError: If one holds a number that is not finite.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            msg = (
                f"{where} no longer finite ({name}): lower prompt_lr or decoder_lr, or train in float32; the last "
                "checkpoint, if there is one, is from before."
            )
            raise FloatingPointError(msg)


def require_trained(name: str, *, trained: bool) -> None:
    """Refuse to use what was not trained.

    Args:
        name: Name of the model's class.
        trained: Whether it is trained.

    Raises:
        RuntimeError: If it is not.
    """
    if not trained:
        msg = (
            f"This {name} is not trained: run `fit` or `train` first, or pass the checkpoint of a finished training "
            "run as ckpt_path."
        )
        raise RuntimeError(msg)


def require_memory(part: _Part | None) -> _Part:
    """Return a part that only a model with a memory has.

    Args:
        part: The memory bank, or the features for it.

    Returns:
        The same part.

    Raises:
        RuntimeError: If the model has none.
    """
    if part is None:
        msg = "This model has no memory bank: build it with use_memory=True (with memory_layers)."
        raise RuntimeError(msg)
    return part
