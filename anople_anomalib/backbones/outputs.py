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
        memory_features: Patch features F averaged over the memory layers, shape ``(B, n, d_v)``; ``None`` if no
            layers were asked for.
        second_features: Patch features of the second backbone, shape ``(B, n', D')``; ``None`` without one.
    """

    image_embedding: torch.Tensor
    patch_tokens: torch.Tensor
    memory_features: torch.Tensor | None
    second_features: torch.Tensor | None = None


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


class TrainingOutput(NamedTuple):
    """Inputs of the losses in a training step; V views.

    Attributes:
        image_embeddings: z^0, L2-normalized, shape ``(V, D)``.
        image_logits: Logits of (normal, abnormal), shape ``(V, 2)``.
        local_features: D(z), shape ``(V, D, h, w)``; ``None`` without a decoder.
        pixel_logits: Logits of (normal, abnormal), shape ``(V, 2, h, w)``; ``None`` without a decoder. No gradient
            flows through them into the texts.
        latent_logits: Logits of the latent anomalies of the normal views, shape ``(V+, 2)``; ``None`` without them.
        text_features: (w+, w-), L2-normalized, shape ``(2, D)``.
    """

    image_embeddings: torch.Tensor
    image_logits: torch.Tensor
    local_features: torch.Tensor | None
    pixel_logits: torch.Tensor | None
    latent_logits: torch.Tensor | None
    text_features: torch.Tensor
