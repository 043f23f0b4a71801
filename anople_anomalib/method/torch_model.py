# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of AnoPLe: composition of the parts, training and inference passes."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from einops import rearrange, repeat
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.backbones.outputs import ShotFeatures, VisualFeatures
from anople_anomalib.utils.transforms import is_size, resize, resize_exactly

from .anomaly_simulation import simulate_latent_anomalies
from .decoder import Decoder, LocalFeatures
from .fusion import PaperFusion, top_mean
from .memory_bank import BankFeatures, MemoryBank
from .prompts import ConstantPrompts, PromptLearner
from .second_memory import SecondMemory, larger_size
from .state_checks import check_weights, require_memory
from .views import distinct_views, double

PIXEL_LOGITS = ("dot", "cosine")
"""The readings of ``<D(z), w>`` in equation (7)."""
_SQUARED_LENGTH = 1e-12  # at least, of features that are divided by their length


class TrainingOutput(NamedTuple):
    """Inputs of the losses in a training step; V views.

    Attributes:
        image_embeddings: z^0, L2-normalized, shape ``(V, D)``.
        image_logits: Logits of (normal, abnormal), shape ``(V, 2)``.
        local_features: D(z); ``None`` without a decoder.
        pixel_logits: Logits of (normal, abnormal), shape ``(V, 2, h, w)``; ``None`` without a decoder. No gradient
            flows through them into the texts.
        latent_logits: Logits of the latent anomalies of the normal views, shape ``(V+, 2)``; ``None`` without them.
        text_features: (w+, w-), L2-normalized, shape ``(2, D)``.
    """

    image_embeddings: torch.Tensor
    image_logits: torch.Tensor
    local_features: LocalFeatures | None
    pixel_logits: torch.Tensor | None
    latent_logits: torch.Tensor | None
    text_features: torch.Tensor


class AnoPLeModel(nn.Module):
    """AnoPLe: prompts around a frozen CLIP, a decoder, a memory bank, and their fusion.

    Text features and memory are buffers: :meth:`refresh_text_features` and :meth:`AnoPLeModel.memory_bank` fill them
    after training, and inference never runs the text tower.

    Args:
        clip: The frozen CLIP.
        text_context_length: C_t.
        visual_context_length: C_v.
        prompt_depth: J, at most the depth of either tower.
        coupling: Coupling of the prompts, one of :data:`anople_anomalib.method.prompts.COUPLINGS`.
        num_views: Number N + 1 of views at training.
        view_signal: Whether the views are told apart by the signal c.
        use_decoder: Whether there is a decoder D; without it CLIP's own projection maps the patch tokens.
        memory_layers: 1-based numbers of the layers whose patch features make the memory; empty for no memory.
        residual_decoder: Whether the decoder refines CLIP's own projection of the patch tokens.
        coreset_sampling_ratio: Share of the patch features that the memory keeps.
        memory_per_category: Whether the memory keeps categories apart; the second one is built by the caller.
        second_memory: A memory of another backbone's features, beside the first; it needs the first.
        fusion: How maps and scores are fused; ``None`` for equations (12) and (14).
        image_logit_scale: 1 / tau of equation (8); ``None`` for CLIP's own.
        pixel_logits: ``"dot"`` for ``<D(z), w>`` as equation (7) is written, ``"cosine"`` for its cosine; ``None`` for
            the cosine where the decoder refines CLIP's projection, which CLIP compares so, else the dot product.

    Raises:
        ValueError: If ``pixel_logits`` is unknown.
    """

    tiling: Any = None  # an image is a whole, and all of it counts: tiles.large_images is of others
    region: Any = None

    def __init__(
        self,
        clip: FrozenCLIP,
        text_context_length: int = 3,
        visual_context_length: int = 3,
        prompt_depth: int = 9,
        coupling: str = "bidirectional",
        num_views: int = 5,
        view_signal: bool = True,
        use_decoder: bool = True,
        memory_layers: Sequence[int] = (7, 8, 9, 10),
        residual_decoder: bool = False,
        coreset_sampling_ratio: float = 1.0,
        memory_per_category: bool = False,
        second_memory: SecondMemory | None = None,
        fusion: PaperFusion | None = None,
        image_logit_scale: float | None = None,
        pixel_logits: str | None = None,
    ) -> None:
        super().__init__()
        if pixel_logits not in {None, *PIXEL_LOGITS}:
            msg = f"pixel_logits must be one of {', '.join(PIXEL_LOGITS)} or None, got {pixel_logits!r}."
            raise ValueError(msg)
        self.clip = clip
        self.num_views = num_views
        self.memory_layers = tuple(memory_layers)
        self.prompt_learner = PromptLearner(
            text_width=clip.text.width,
            visual_width=clip.visual.width,
            text_context_length=text_context_length,
            visual_context_length=visual_context_length,
            prompt_depth=prompt_depth,
            coupling=coupling,
            num_views=num_views if view_signal else 0,
        )
        self.residual_decoder = residual_decoder
        self.decoder = (
            Decoder(clip.visual.width, clip.embed_dim, starts_at_zero=residual_decoder) if use_decoder else None
        )
        starts_from_clip = residual_decoder or not use_decoder
        self.pixel_logits = pixel_logits or ("cosine" if starts_from_clip else "dot")
        bank = (clip.visual.width, coreset_sampling_ratio, memory_per_category)
        self.memory_bank = MemoryBank(*bank) if self.memory_layers else None
        self.second_memory = second_memory if self.memory_layers else None
        self.fusion = fusion or PaperFusion()
        self.register_buffer("tokens", torch.empty(2, 0, 0, dtype=torch.long), persistent=False)  # of training only
        self.register_buffer("text_features", torch.zeros(2, clip.embed_dim))  # (w+, w-)
        self.register_buffer("is_fitted", torch.tensor(data=False))  # saved: training may be under way
        own_scale = clip.logit_scale.detach().clone()
        given_scale = own_scale if image_logit_scale is None else torch.tensor(float(image_logit_scale))
        self.register_buffer("image_logit_scale", given_scale)
        self.register_buffer("pixel_logit_scale", own_scale)
        fingerprint = torch.tensor(list(clip.fingerprint), dtype=torch.uint8)
        self.register_buffer("backbone_fingerprint", fingerprint)
        self.tokens: torch.Tensor
        self.text_features: torch.Tensor
        self.is_fitted: torch.Tensor
        self.image_logit_scale: torch.Tensor
        self.pixel_logit_scale: torch.Tensor
        self.backbone_fingerprint: torch.Tensor
        self.register_load_state_dict_pre_hook(check_weights)

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

    def training_images(
        self, images: torch.Tensor, regions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Resize training images, values in [0, 1], to twice the model's resolution; they have no region."""
        del regions
        return resize(images, double(self.image_size)).clamp(0, 1), None  # bicubic resizing overshoots

    def for_inference(self) -> "AnoPLeModel":
        """Return a copy that can only detect: constant prompts, no text tower, no gradients."""
        model = copy.deepcopy(self)
        model.register_module("prompt_learner", ConstantPrompts(self.prompt_learner))
        model.clip.set_grad_checkpointing(enable=False)  # there is no backward pass
        model.clip.register_module("text", None)
        return model.requires_grad_(requires_grad=False).eval()

    def set_texts(self, normal: torch.Tensor, abnormal: torch.Tensor) -> None:
        """Set the texts of both states.

        Args:
            normal: Token numbers of the normal prompts, shape ``(P, L)``.
            abnormal: Token numbers of the abnormal prompts, shape ``(P', L)``.

        Raises:
            ValueError: If a text and the prompts together exceed the context length.
        """
        tokens = torch.cat([normal, abnormal])
        self.clip.text.length(tokens, self.prompt_learner().text.shape[1])
        self.tokens = tokens.to(self.text_features.device)
        self.num_normal_texts = len(normal)

    def encode_texts(self, text_prompts: torch.Tensor) -> torch.Tensor:
        """Compute the text features (w+, w-) of the two states, averaged over all texts of a state.

        Args:
            text_prompts: Prompts of the text tower, shape ``(J, C, d_t)``.

        Returns:
            L2-normalized features of shape ``(2, D)``: normal, abnormal.
        """
        embeddings = self.clip.text(self.tokens, text_prompts)  # (P + P', D)
        states = embeddings.tensor_split([self.num_normal_texts])
        return F.normalize(torch.stack([state.mean(dim=0) for state in states]), dim=-1)

    def training_forward(self, views: torch.Tensor, normal: torch.Tensor | None = None) -> TrainingOutput:
        """Encode the views of training images and compare them with the texts.

        The pixel logits are computed with detached texts. M_hat is a softmax over two cosines per pixel, thousands of
        them: the texts would follow their gradient until w+ and w- are the same and nothing can be told apart.

        Args:
            views: Normalized views, shape ``(B, V, 3, h, w)``; the whole image last.
            normal: Which of the ``B * V`` views are normal, dtype bool: from these, latent anomalies are simulated.
                ``None`` for no latent anomalies.

        Returns:
            Embeddings and logits of the ``B * V`` views.
        """
        prompts = self.prompt_learner()
        text_features = self.encode_texts(prompts.text)
        signal = self.prompt_learner.view_signal
        if signal is not None:
            signal = repeat(signal, "v d -> (b v) d", b=len(views))
        distinct, index = distinct_views(views)
        images = rearrange(views, "b v c h w -> (b v) c h w")[distinct]
        visual = self.clip.visual(images, prompts.visual, None if signal is None else signal[distinct])
        embeddings = F.normalize(visual.image_embedding, dim=-1)[index]
        local_features = pixel_logits = None
        if self.decoder is not None:
            local_features = self._local_features(visual)
            pixel_logits = self._pixel_logits(local_features, text_features.detach())[index]
            local_features = local_features.take(index)
        latent = None if normal is None else simulate_latent_anomalies(embeddings[normal])  # z-_latent
        return TrainingOutput(
            image_embeddings=embeddings,
            image_logits=self.image_logits(embeddings, text_features),
            local_features=local_features,
            pixel_logits=pixel_logits,
            latent_logits=None if latent is None else self.image_logits(latent, text_features),
            text_features=text_features,
        )

    def image_logits(self, embeddings: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Compute the logits of (normal, abnormal), the argument of the softmax of equation (8).

        Args:
            embeddings: L2-normalized image embeddings, shape ``(B, D)``.
            text_features: (w+, w-), shape ``(2, D)``.

        Returns:
            The logit scale (1 / tau) times the cosines, shape ``(B, 2)``.
        """
        return self.image_logit_scale.to(embeddings.dtype) * embeddings @ text_features.T

    @torch.no_grad()
    def refresh_text_features(self) -> None:
        """Compute the text features once, with the present prompts."""
        self.text_features = self.encode_texts(self.prompt_learner().text).float()

    def abnormal_probability(self, visual: VisualFeatures) -> torch.Tensor:
        """Compute p_hat of equation (8), shape ``(B,)``, values in [0, 1]."""
        embeddings = F.normalize(visual.image_embedding, dim=-1)
        return self.image_logits(embeddings, self.text_features.to(embeddings.dtype)).softmax(dim=-1)[..., 1]

    def decoder_map(self, visual: VisualFeatures) -> torch.Tensor:
        """Compute M_hat, the abnormal probability of every pixel: shape ``(B, h, w)``, values in [0, 1]."""
        logits = self._pixel_logits(self._local_features(visual), self.text_features)
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

    def _local_features(self, visual: VisualFeatures) -> LocalFeatures:
        """Compute D(z)."""
        if self.decoder is None:
            return LocalFeatures.of(self.clip.visual.project(visual.patch_tokens))
        local_features = self.decoder(visual.patch_tokens, self.clip.visual.grid)
        if not self.residual_decoder:
            return local_features
        return local_features._replace(coarse=self.clip.visual.project(visual.patch_tokens))

    def _pixel_logits(self, local_features: LocalFeatures, text_features: torch.Tensor) -> torch.Tensor:
        """Compute the logits of (normal, abnormal), equation (7), shape ``(B, 2, h, w)``."""
        logits = local_features.dot(text_features)
        if self.pixel_logits == "cosine":
            logits = logits * local_features.squared_length().clamp_min(_SQUARED_LENGTH).rsqrt()
        return self.pixel_logit_scale.to(logits.dtype) * logits
