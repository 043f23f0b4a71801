# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of weights, losses and parts, before they overwrite a model, spoil one, or are missed in one."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

_Part = TypeVar("_Part")
_FINGERPRINTS = ("backbone_fingerprint", "second_memory.fingerprint")
_FREE_AXES = {
    r"memory_bank(s\.\d+)?\.(features|lengths|inside|outside)$": 1,
    r"region\.mask$": 2,
}
"""Buffers, as patterns, of which so many axes are as long as the checkpoint has them."""


def check_weights(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    prefix: str = "",
    _metadata: Mapping[str, Any] | None = None,
    strict: bool = True,
    *_args: object,
) -> None:
    """Refuse weights that do not fit, before the first one is overwritten: the one check of all ways to load.

    PyTorch's own check comes last, when all that fits has been copied. This is the load-state-dict pre-hook of the
    torch model; a module around it has its own part to lose as well, and calls this function before it loads anything.

    Args:
        module: The torch model, or a module that has it as ``model``.
        state_dict: The weights.
        prefix: Prefix of the names where the module is loaded as a part of another, which has checked the whole.
        strict: Whether all names must be there and no others.

    Raises:
        ValueError: If the weights carry another backbone's fingerprint, a name is missing or unknown, or a tensor is of
            another shape or kind or holds numbers that are not finite. Statistics outside the model may be NaN:
            anomalib starts them so.
    """
    if prefix:
        return
    _check_backbone(module, state_dict)
    own = module.state_dict()
    for name, value in own.items():
        if wrong := _misfit(name, value, state_dict):
            raise _refusal(module, name, wrong)
    if strict:
        check_names(module, state_dict)


def check_names(module: nn.Module, state_dict: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse weights of which one is missing or unknown to a module, whose names have a prefix: a ``ValueError``."""
    own = module.state_dict().keys()
    odd = own ^ {name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)}
    if odd:
        name = min(odd)
        raise _refusal(module, name, "is missing" if name in own else "is not part of it")


def _check_backbone(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Refuse weights for another backbone, by their fingerprints; none at all is a missing name."""
    own_state = module.state_dict()
    for name in (name for name in own_state if name.endswith(_FINGERPRINTS)):
        own, given = own_state[name], state_dict.get(name)
        if not isinstance(given, torch.Tensor) or (given.dtype, given.shape) != (own.dtype, own.shape):
            continue
        if not torch.equal(given.cpu(), own.cpu()):
            second, argument = ("memory ", "memory.backbone") if name.endswith(_FINGERPRINTS[1]) else ("", "backbone")
            beside = "" if second else " (a file of them with the open_clip_config.json that was beside it)"
            msg = (
                f"The weights were trained over another {second}backbone (fingerprint {_short(given)}) than this "
                f"model's ({_short(own)}): build the model with the {argument} and pretrained weights that the "
                f"checkpoint names{beside}."
            )
            raise ValueError(msg)


def _refusal(module: nn.Module, name: str, problem: str) -> ValueError:
    kind = type(module).__name__.removesuffix("Model")
    return ValueError(
        f"The weights do not fit this {kind} ({name} {problem}): build the model with the arguments that it was "
        "trained with, or take another checkpoint."
    )


def _short(fingerprint: torch.Tensor) -> str:
    return bytes(fingerprint.tolist()).hex()[:8]


def _misfit(name: str, own: torch.Tensor, given: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a given tensor, or ``None`` if it fits or is absent."""
    if name not in given:
        return None
    value = given[name]
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return "is not a plain tensor"
    free = next((axes for pattern, axes in _FREE_AXES.items() if re.search(pattern, name)), 0)
    if value.dim() != own.dim() or value.shape[free:] != own.shape[free:]:
        return f"has shape {tuple(value.shape)} instead of {tuple(own.shape)}"
    same_kind = value.is_floating_point() if own.is_floating_point() else value.dtype == own.dtype
    if not same_kind or not value.is_contiguous():
        return f"is of kind {value.dtype} instead of {own.dtype}, or not contiguous"
    is_statistic = name.startswith(("post_processor.", "pre_processor.", "evaluator."))
    if value.is_floating_point() and not is_statistic and not value.isfinite().all():
        return "holds numbers that are not finite"
    return None


def require_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Stop a run that has diverged by a FloatingPointError, of whose message ``where`` is the subject."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            msg = (
                f"{where} no longer finite ({name}): lower prompt_lr or decoder_lr, or train in float32; the last "
                "checkpoint, if there is one, is from before."
            )
            raise FloatingPointError(msg)


def require_trained(name: str, *, trained: bool) -> None:
    """Refuse to use a model of a class, by its name, that was not trained: a ``RuntimeError``."""
    if not trained:
        msg = (
            f"This {name} is not trained: run `fit` or `train` first, or pass the checkpoint of a finished training "
            "run as ckpt_path."
        )
        raise RuntimeError(msg)


def require_memory(part: _Part | None) -> _Part:
    """Return a part that only a model with a memory has; without one it is a ``RuntimeError``."""
    if part is None:
        msg = "This model has no memory bank: build it with memory.enabled true."
        raise RuntimeError(msg)
    return part
