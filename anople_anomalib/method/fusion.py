# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Fusion of the prompt-guided and the memory-guided anomaly maps (section 3.5 of the AnoPLe paper)."""

from typing import NamedTuple

import torch
from torch import nn

_FLOOR = 1e-3  # of the decoder's map under a power: a single 0 does not erase what the memory sees


class Weights(NamedTuple):
    """Weights of the parts in :class:`WeightedFusion`."""

    clip_share: float  # share of the prompted CLIP's memory in M_mem, the rest being the second memory's
    decoder_power: float  # exponent of the decoder's map
    prompt_power: float  # exponent of p_hat


class PaperFusion(nn.Module):
    """Equations (12) and (14); with a second memory, M_mem is the mean of both.

    Args:
        top_share: Share of the largest values of the map whose mean stands for the image; 0 for the maximum (14).
    """

    name = "paper"
    memory_alone = False
    """Whether nothing but the second memory, where there is one, has a weight."""

    def __init__(self, top_share: float = 0.0) -> None:
        super().__init__()
        self.top_share = top_share

    def memory(self, first: torch.Tensor, second: torch.Tensor | None) -> torch.Tensor:
        """Combine the memories' maps to M_mem.

        Args:
            first: Map of the prompted CLIP's memory (13), shape ``(B, h, w)``, values in [0, 1].
            second: Map of the second memory, of the same shape and range, if there is one.

        Returns:
            M_mem, of the same shape and range.
        """
        return first if second is None else (first + second) / 2

    def map(self, decoder_map: torch.Tensor, memory_map: torch.Tensor | None) -> torch.Tensor:
        """Fuse the maps to M_q.

        Args:
            decoder_map: M_hat, shape ``(B, h, w)``, values in [0, 1].
            memory_map: M_mem, of the same shape and range, if there is a memory.

        Returns:
            M_q (12), of the same shape, values in [0, 0.5] (in [0, 1] without a memory).
        """
        return decoder_map if memory_map is None else fuse(decoder_map, memory_map)

    def score(
        self, abnormal_probability: torch.Tensor, anomaly_map: torch.Tensor, inside: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the image's score (14).

        Args:
            abnormal_probability: p_hat, shape ``(B,)``, values in [0, 1].
            anomaly_map: M_q, shape ``(B, h, w)``, values in [0, 1].
            inside: The region that the share is of, shape ``(B, h, w)``, the map being 0 outside; ``None`` for all.

        Returns:
            Shape ``(B,)``, values in [0, 0.5].
        """
        return fuse(abnormal_probability, top_mean(anomaly_map, self.top_share, inside))


class WeightedFusion(PaperFusion):
    """A fusion in which every part has the weight that it earns on anomalies simulated on the shots.

    The maps of the memories are averaged; the decoder's map and p_hat enter as factors with a power, which is 0 for a
    part that is dropped: ``M_q = M_mem * M_hat ** a`` and ``score = top(M_q) * p_hat ** b``. The weights are buffers;
    :func:`.fusion_weights.choose_weights` finds them.

    Args:
        top_share: As for :class:`PaperFusion`.
    """

    name = "weighted"

    def __init__(self, top_share: float = 0.0) -> None:
        super().__init__(top_share)
        self.register_buffer("weights", torch.tensor([0.5, 1.0, 0.0]))
        self.weights: torch.Tensor
        self.register_load_state_dict_post_hook(_note_weights)

    def set_weights(self, weights: Weights) -> None:
        """Replace the weights."""
        self.weights.copy_(torch.tensor(weights))
        _note_weights(self)

    def memory(self, first: torch.Tensor, second: torch.Tensor | None) -> torch.Tensor:
        """Average the memories' maps, see the base class."""
        return first if second is None else torch.lerp(second, first, self.weights[0].to(first.dtype))

    def map(self, decoder_map: torch.Tensor, memory_map: torch.Tensor | None) -> torch.Tensor:
        """Fuse the maps to M_q in [0, 1], see the base class."""
        if memory_map is None:
            return decoder_map
        factor = decoder_map.clamp_min(_FLOOR) ** self.weights[1].to(decoder_map.dtype)
        return memory_map * factor

    def score(
        self, abnormal_probability: torch.Tensor, anomaly_map: torch.Tensor, inside: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the image's score in [0, 1], see the base class."""
        factor = abnormal_probability.clamp_min(_FLOOR) ** self.weights[2].to(anomaly_map.dtype)
        return top_mean(anomaly_map, self.top_share, inside) * factor


def _note_weights(fusion: WeightedFusion, *_args: object) -> None:
    """Note whether all weights are 0, which an export and a GPU are not asked for every image; also a load hook."""
    fusion.memory_alone = not fusion.weights.any()


def top_mean(anomaly_map: torch.Tensor, share: float, inside: torch.Tensor | None = None) -> torch.Tensor:
    """Average the largest values of maps ``(B, h, w)``, a share in [0, 1] of them, 0 for the largest alone.

    The share is of those ``inside``, shape ``(B, h, w)``, ``None`` for all; elsewhere the values are 0.
    """
    values = anomaly_map.flatten(1)
    number = int(share * values.shape[1])
    if number <= 1:
        return values.amax(dim=1)
    largest = values.topk(number, dim=1).values
    if inside is None:
        return largest.mean(dim=1)
    numbers = (share * inside.flatten(1).sum(dim=1, keepdim=True)).floor().clamp_min(1)  # (B, 1)
    counts = torch.arange(number, device=largest.device) < numbers
    return (largest * counts).sum(dim=1) / numbers.squeeze(1)


def fuse(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Fuse harmonically, ``1 / (1 / a + 1 / b)``, equations (12) and (14).

    Written as ``a * (b / (a + b))``, which is 0 where both inputs are 0 and keeps small half-precision values from
    vanishing, as ``a * b`` would.

    Args:
        first: Any shape, values in [0, 1].
        second: A shape that broadcasts with ``first``, values in [0, 1].

    Returns:
        The fused values in [0, 0.5], never NaN.
    """
    total = first + second
    return first * (second / total.clamp_min(torch.finfo(total.dtype).tiny))
