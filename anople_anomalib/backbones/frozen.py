# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A part of the model that is never trained and never saved, but for a fingerprint."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

_VALUES = 64  # of every tensor in a fingerprint


class FrozenModule(nn.Module):
    """Base of pretrained networks: no gradients into them, evaluation mode, absent from state dicts.

    Gradients flow through the module. A checkpoint holds a fingerprint of its weights instead, see
    :mod:`anople_anomalib.method.state_checks`.
    """

    def freeze(self) -> None:
        """Freeze all that the module holds; the last statement of a constructor."""
        self.requires_grad_(requires_grad=False)
        super().train(mode=False)  # this class's own train() changes nothing
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_keep)

    def train(self, mode: bool = True) -> "FrozenModule":
        """Stay in evaluation mode, whatever the mode of the parent."""
        del mode
        return self


def _tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and persistent buffers under the names that a state dict would give them."""
    volatile = {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        for name in part._non_persistent_buffers_set  # noqa: SLF001  # torch tells them in no other way
    }
    parameters = module.named_parameters(remove_duplicate=False)  # language models tie their last weights to the first
    for name, tensor in (*parameters, *module.named_buffers(remove_duplicate=False)):
        if name not in volatile:
            yield prefix + name, tensor


def _leave_out(module: nn.Module, state_dict: dict, prefix: str, _metadata: dict) -> None:
    """State-dict post hook: the weights are not saved."""
    for name, _ in _tensors(module, prefix):
        state_dict.pop(name, None)


def _keep(module: nn.Module, state_dict: dict, prefix: str, *_args: object) -> None:
    """Load-state-dict pre hook: the weights are neither missing nor replaced."""
    state_dict.update(_tensors(module, prefix))


def fingerprint_of(tensors: Iterable[tuple[str, torch.Tensor]], settings: str = "") -> bytes:
    """Identify weights by 32 bytes: names, shapes and evenly spaced values of tensors, and settings beside them."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(tensors):
        flat = tensor.detach().flatten()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        sample = flat[:: max(1, flat.numel() // _VALUES)]  # few are enough to tell weights apart
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.digest()
