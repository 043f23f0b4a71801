# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Self-attention with the weights of torch's ``MultiheadAttention``, and a record of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from .clip import PromptedVisualTower


def attend(attention: nn.MultiheadAttention, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Compute self-attention by torch's fused kernel, in bfloat16 on a CPU by the products, which are faster there.

    torch's own module hands its projection a transposed view, for which a batch in bfloat16 or with gradients copies
    the weights for every token: several times the cost of the block. Here the projection is one matmul.

    Args:
        attention: The module whose weights are used.
        x: Sequences of shape ``(B, L, D)``.
        mask: Added to the scores, shape ``(L, L)``.

    Returns:
        Shape ``(B, L, D)``.
    """
    queries, keys, values = _heads(attention, x)
    mask = None if mask is None else mask.to(queries.dtype)
    if queries.dtype == torch.bfloat16 and queries.device.type == "cpu":
        scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-1, -2)
        heads = (scores if mask is None else scores + mask).softmax(dim=-1) @ values
    else:
        heads = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return attention.out_proj(rearrange(heads, "b h l d -> b l (h d)"))


def attend_values(attention: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """Compute V-V attention of sequences ``(B, L, D)``: the values attend to themselves, not queries to keys."""
    values = _heads(attention, x)[2]
    heads = F.scaled_dot_product_attention(values, values, values)
    return attention.out_proj(rearrange(heads, "b h l d -> b l (h d)"))


def require_multihead(block: nn.Module) -> nn.MultiheadAttention:
    """Return the attention of a transformer's block; another kind than torch's is a ``ValueError``."""
    attention = getattr(block, "attn", None)
    if not isinstance(attention, nn.MultiheadAttention):
        msg = (
            f"The attention of this backbone is a {type(attention).__name__}, which does not tell its weights: "
            "choose a backbone with torch's MultiheadAttention, such as ViT-B-16-plus-240 or anople-tiny."
        )
        raise ValueError(msg)
    return attention


def attention_weights(attention: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """Compute how tokens ``(B, L, D)`` attend to each other, without a mask: the mean over the heads, ``(B, L, L)``."""
    queries, keys, _ = _heads(attention, x)
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return scores.softmax(dim=-1).mean(dim=1)


@contextmanager
def recorded_attention(tower: "PromptedVisualTower") -> Iterator[list[torch.Tensor]]:
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


def _heads(attention: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """Return queries, keys and values, shape ``(3, B, heads, L, D / heads)``."""
    packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    return rearrange(packed, "b l (three h d) -> three b h l d", three=3, h=attention.num_heads)
