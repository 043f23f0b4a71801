# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Results of the passes through the model."""

from typing import NamedTuple

import torch


class VisualFeatures(NamedTuple):
    """Result of one pass through the visual tower.

    Attributes:
        image_embedding: CLS token in the joint embedding, z^0, shape ``(B, embed_dim)``; not normalized.
        patch_tokens: Patch tokens z[1:] of the last layer after ``ln_post``, shape ``(B, n, d_v)``.
        layers: Patch features of every layer that was asked for, shape ``(B, n, d_v)`` each.
        second_features: Patch features of the second backbone, shape ``(B, n', D')``; ``None`` without one.
    """

    image_embedding: torch.Tensor
    patch_tokens: torch.Tensor
    layers: tuple[torch.Tensor, ...]
    second_features: torch.Tensor | None = None

    @property
    def memory_features(self) -> torch.Tensor | None:
        """Patch features F averaged over the layers, shape ``(B, n, d_v)``; ``None`` if none were asked for."""
        return torch.stack(self.layers).mean(dim=0) if self.layers else None


class ValueFeatures(NamedTuple):
    """Result of one pass through the visual tower whose local features come from V-V attention.

    Attributes:
        image_embedding: CLS token in the joint embedding, shape ``(B, embed_dim)``; not normalized.
        local_features: Patches in the joint embedding, shape ``(B, n, embed_dim)``; not normalized.
        memory_features: Patch features of every layer that was asked for, shape ``(B, n, d_v)`` each.
    """

    image_embedding: torch.Tensor
    local_features: torch.Tensor
    memory_features: tuple[torch.Tensor, ...]


class ShotFeatures(NamedTuple):
    """Features of B shots for the memories; T tiles a shot, one where an image is whole."""

    first: torch.Tensor  # patch features of the prompted CLIP, shape ``(B, T * n, d_v)``
    second: torch.Tensor | None  # those of the second backbone, shape ``(B, T * n', D')``; ``None`` without one
    first_inside: torch.Tensor | None  # which of the first are in the region, shape ``(B, T * n)``; ``None`` if all are
    second_inside: torch.Tensor | None  # which of the second are
