# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Whole images through a trained AnoPLe: one pass gives the maps of its parts, their fusion and the score."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import InferenceBatch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.backbones.outputs import ShotFeatures, VisualFeatures
from anople_anomalib.utils.transforms import is_size, resize_exactly

from .decoder import Decoder, LocalFeatures
from .fusion import PaperFusion, top_mean
from .memory_bank import BankFeatures, MemoryBank
from .prompts import PromptLearner
from .second_memory import SecondMemory, larger_size
from .state_checks import require_memory

_SQUARED_LENGTH = 1e-12  # at least, of features that are divided by their length


class WholeImages(nn.Module):
    """The side of :class:`.AnoPLeModel` that judges: its parts are made and trained there."""

    clip: FrozenCLIP
    prompt_learner: PromptLearner
    decoder: Decoder | None
    residual_decoder: bool
    pixel_logits: str
    memory_layers: tuple[int, ...]
    memory_bank: MemoryBank | None
    second_memory: SecondMemory | None
    fusion: PaperFusion
    text_features: torch.Tensor
    image_logit_scale: torch.Tensor
    pixel_logit_scale: torch.Tensor
    tiling: Any = None  # an image is a whole, and all of it counts: tiles.large_images is of others
    region: Any = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that CLIP sees, and of all maps."""
        return self.clip.visual.image_size

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Height and width of CLIP's patch grid."""
        return self.clip.visual.grid

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of an image, or of a tile of a larger one: those of the backbone that sees more."""
        return larger_size(self.image_size, self.second_memory)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that the model takes."""
        return self.tile_size

    def forward(
        self, images: torch.Tensor, regions: torch.Tensor | None = None, banks: Sequence[MemoryBank] | None = None
    ) -> InferenceBatch:
        """Detect anomalies in whole images, in one pass.

        Args:
            images: Normalized images, shape ``(B, 3, H, W)``; resized to the backbones' sizes.
            regions: ``None``: a whole image has no region of interest, those of :class:`.LargeImages` have.
            banks: Other memory banks than the model's own, in the same order: of CLIP, of the second backbone.

        Returns:
            ``pred_score`` (14) of shape ``(B, 1)`` and ``anomaly_map`` M_q (12) of shape ``(B, 1, H, W)``, both in
            [0, 0.5] (in [0, 1] without a memory).
        """
        del regions
        if self.second_memory is not None and self.fusion.memory_alone:  # CLIP would run for nothing
            distances = (banks[-1] if banks else self.second_memory.memory_bank)(self.second_memory.features(images))
            anomaly_map = self.resized_map(distances, self.second_memory.backbone.grid)
            score = top_mean(anomaly_map, self.fusion.top_share)
        else:
            visual = self.encode_whole(images)
            memory_map = None if self.memory_bank is None else self.memory_map(visual, banks)
            anomaly_map = self.fusion.map(self.decoder_map(visual), memory_map)  # (12)
            score = self.fusion.score(self.abnormal_probability(visual), anomaly_map)  # (14)
        anomaly_map, size = anomaly_map.unsqueeze(1), images.shape[-2:]
        if not is_size(size, anomaly_map.shape[-2:]):
            anomaly_map = F.interpolate(anomaly_map, size=size, mode="bilinear")
        return InferenceBatch(pred_score=score.unsqueeze(1), anomaly_map=anomaly_map)

    def encode_whole(self, images: torch.Tensor, view: int = -1) -> VisualFeatures:
        """Encode whole images by one pass through the prompted visual tower.

        Args:
            images: Normalized images, shape ``(B, 3, H, W)``; resized to what each backbone sees.
            view: Index of the view signal that goes along; the default is c_{N+1}, that of the whole image.

        Returns:
            What the maps and the score are computed from.
        """
        visual = self.encode_by_clip(images, view)
        if self.second_memory is None:
            return visual
        return visual._replace(second_features=self.second_memory.features(images))

    def encode_by_clip(self, images: torch.Tensor, view: int = -1) -> VisualFeatures:
        """Encode whole images as :meth:`encode_whole` does, without the second backbone."""
        if not is_size(images.shape[-2:], self.image_size):
            images = resize_exactly(images, self.image_size)
        signal: torch.Tensor | None = self.prompt_learner.view_signal
        if signal is not None:
            signal = signal[view].expand(images.shape[0], -1)  # len() would fix the batch of an export
        return self.clip.visual(images, self.prompt_learner().visual, signal, self.memory_layers)

    @torch.no_grad()
    def shot_features(self, images: torch.Tensor) -> ShotFeatures:
        """Compute the features of normal images for the memories.

        Args:
            images: Normalized images, shape ``(B, 3, H, W)``.

        Returns:
            The patch features of both memories, and which of the second belong in its bank.
        """
        first = self.first_features(images).features
        if self.second_memory is None:
            return ShotFeatures(first, None, None, None)
        second = self.second_features(images)
        return ShotFeatures(first, second.features, None, second.inside)

    @torch.no_grad()
    def first_features(self, images: torch.Tensor, regions: torch.Tensor | None = None) -> BankFeatures:
        """Compute F, what the prompted CLIP's memory keeps of normal images, see :meth:`shot_features`."""
        del regions
        return BankFeatures(require_memory(self.encode_by_clip(images).memory_features), None)

    @torch.no_grad()
    def second_features(self, images: torch.Tensor, regions: torch.Tensor | None = None) -> BankFeatures:
        """Compute what the second memory keeps of normal images, see :meth:`shot_features`."""
        del regions
        memory = require_memory(self.second_memory)
        return memory.shot_features(images) if memory.copies > 1 else BankFeatures(memory.features(images), None)

    def image_logits(self, embeddings: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Compute the logits of (normal, abnormal), the argument of the softmax of equation (8).

        Args:
            embeddings: L2-normalized image embeddings, shape ``(B, D)``.
            text_features: (w+, w-), shape ``(2, D)``.

        Returns:
            The logit scale (1 / tau) times the cosines, shape ``(B, 2)``.
        """
        return self.image_logit_scale.to(embeddings.dtype) * embeddings @ text_features.T

    def abnormal_probability(self, visual: VisualFeatures) -> torch.Tensor:
        """Compute p_hat of equation (8), shape ``(B,)``, values in [0, 1]."""
        embeddings = F.normalize(visual.image_embedding, dim=-1)
        return self.image_logits(embeddings, self.text_features.to(embeddings.dtype)).softmax(dim=-1)[..., 1]

    def decoder_map(self, visual: VisualFeatures) -> torch.Tensor:
        """Compute M_hat, the abnormal probability of every pixel: shape ``(B, h, w)``, values in [0, 1]."""
        logits = self.pixel_logits_of(self.local_features_of(visual), self.text_features)
        logits = F.interpolate(logits, size=self.image_size, mode="bilinear", align_corners=False)
        return logits.softmax(dim=1)[..., 1, :, :]

    def memory_map(self, visual: VisualFeatures, banks: Sequence[MemoryBank] | None = None) -> torch.Tensor:
        """Compute M_mem of equation (13), resized to the image: shape ``(B, h, w)``, values in [0, 1].

        With a second memory, the fusion combines the maps of both; ``banks`` are others, as for :meth:`forward`.
        """
        first, second = (None, None) if banks is None else (banks[0], banks[-1])
        return self.fusion.memory(self.first_memory_map(visual, first), self.second_memory_map(visual, second))

    def first_memory_map(self, visual: VisualFeatures, bank: MemoryBank | None = None) -> torch.Tensor:
        """Compute the map of the prompted CLIP's memory (13), by another bank if one is given."""
        distances = require_memory(self.memory_bank if bank is None else bank)(require_memory(visual.memory_features))
        return self.resized_map(distances, self.clip.visual.grid)

    def second_memory_map(self, visual: VisualFeatures, bank: MemoryBank | None = None) -> torch.Tensor | None:
        """Compute the map of the second memory, by another bank if one is given; ``None`` without one."""
        if self.second_memory is None:
            return None
        distances = (self.second_memory.memory_bank if bank is None else bank)(require_memory(visual.second_features))
        return self.resized_map(distances, self.second_memory.backbone.grid)

    def resized_map(self, distances: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Resize distances of shape ``(B, n)`` to a map of shape ``(B, h, w)``."""
        distances = rearrange(distances, "b (h w) -> b 1 h w", h=grid[0], w=grid[1])
        return F.interpolate(distances, size=self.image_size, mode="bilinear", align_corners=False).squeeze(1)

    def local_features_of(self, visual: VisualFeatures, rounded: bool = False) -> LocalFeatures:
        """Compute D(z), with products in bfloat16 where these are allowed and faster."""
        if self.decoder is None:
            return LocalFeatures.of(self.clip.visual.project(visual.patch_tokens))
        local_features = self.decoder(visual.patch_tokens, self.clip.visual.grid, rounded)
        if not self.residual_decoder:
            return local_features
        return local_features._replace(coarse=self.clip.visual.project(visual.patch_tokens))

    def pixel_logits_of(self, local_features: LocalFeatures, text_features: torch.Tensor) -> torch.Tensor:
        """Compute the logits of (normal, abnormal), equation (7), shape ``(B, 2, h, w)``."""
        logits = local_features.dot(text_features)
        if self.pixel_logits == "cosine":
            logits = logits * local_features.squared_length().clamp_min(_SQUARED_LENGTH).rsqrt()
        return self.pixel_logit_scale.to(logits.dtype) * logits
