# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Attention of the visual tower's tokens, recorded while a pass runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn

from .attention import attention_weights, require_multihead
from .clip import PromptedVisualTower


@contextmanager
def recorded_attention(tower: PromptedVisualTower) -> Iterator[list[torch.Tensor]]:
    """Record how the tokens of the visual tower attend to each other while a pass runs.

    The order of the tokens is the tower's: [CLS, patches, view signal, prompts].

    Args:
        tower: The visual tower.

    Yields:
        A list to which a pass appends the weights of every layer: shape ``(B, L, L)``, query by key, the mean over
        the heads; a row sums to 1.

    Raises:
        ValueError: If a layer has an attention of its own kind, which keeps its weights to itself.
    """
    recorded: list[torch.Tensor] = []
    with ExitStack() as hooks:  # removes them whatever happens
        for block in tower.visual.transformer.resblocks:
            record = partial(_record, recorded, require_multihead(block))
            hooks.callback(block.ln_1.register_forward_hook(record).remove)
        yield recorded


def _record(
    recorded: list[torch.Tensor], attention: nn.MultiheadAttention, _norm: nn.Module, _args: tuple, x: torch.Tensor
) -> None:
    """Record the weights that the attention will have (forward hook of the norm before it)."""
    recorded.append(attention_weights(attention, x).detach())
