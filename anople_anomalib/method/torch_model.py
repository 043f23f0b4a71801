# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of AnoPLe: composition of the parts, and the training pass."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch.nn import functional as F

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.utils.transforms import resize

from .anomaly_simulation import simulate_latent_anomalies
from .decoder import Decoder, LocalFeatures
from .fusion import PaperFusion
from .memory_bank import MemoryBank
from .prompts import ConstantPrompts, PromptLearner
from .second_memory import SecondMemory
from .state_checks import check_weights
from .views import distinct_views, double
from .whole_images import WholeImages


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


class AnoPLeModel(WholeImages):
    """AnoPLe: prompts around a frozen CLIP, a decoder, a memory bank, and their fusion.

    Text features and memory are buffers: :meth:`refresh_text_features` and :meth:`AnoPLeModel.memory_bank` fill them
    after training, and inference never runs the text tower.

    Args:
        clip: The frozen CLIP.
        text_context_length: C_t.
        visual_context_length: C_v.
        prompt_depth: J, at most the depth of either tower.
        coupling: Coupling of the prompts, one of :data:`anople_anomalib.config.COUPLINGS`.
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
    """

    tokens: torch.Tensor
    is_fitted: torch.Tensor

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
        self.clip, self.num_views, self.memory_layers = clip, num_views, tuple(memory_layers)
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
        self.register_buffer("backbone_fingerprint", torch.tensor(list(clip.fingerprint), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(check_weights)

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

    @torch.no_grad()
    def refresh_text_features(self) -> None:
        """Compute the text features once, with the present prompts."""
        self.text_features = self.encode_texts(self.prompt_learner().text).float()

    def training_forward(
        self, views: torch.Tensor, normal: torch.Tensor | None = None, rounded: bool = False
    ) -> TrainingOutput:
        """Encode the views of training images and compare them with the texts.

        The pixel logits are computed with detached texts. M_hat is a softmax over two cosines per pixel, thousands of
        them: the texts would follow their gradient until w+ and w- are the same and nothing can be told apart.

        Args:
            views: Normalized views, shape ``(B, V, 3, h, w)``; the whole image last.
            normal: Which of the ``B * V`` views are normal, dtype bool: from these, latent anomalies are simulated.
                ``None`` for no latent anomalies.
            rounded: Whether visual tower and decoder may multiply in bfloat16, where that is faster.

        Returns:
            Embeddings and logits of the ``B * V`` views.
        """
        prompts = self.prompt_learner()
        text_features = self.encode_texts(prompts.text)
        distinct, index = distinct_views(views)
        images = rearrange(views, "b v c h w -> (b v) c h w")
        if len(distinct) < len(index):
            images = images[distinct]
        signal = self.prompt_learner.view_signal
        signals = None if signal is None else repeat(signal, "v d -> (b v) d", b=len(views))[distinct]
        visual = self.clip.visual(images, prompts.visual, signals, rounded=rounded)
        embeddings = F.normalize(visual.image_embedding, dim=-1)[index]
        local_features = pixel_logits = None
        if self.decoder is not None:
            local_features = self.local_features_of(visual, rounded)
            pixel_logits = self.pixel_logits_of(local_features, text_features.detach())[index]
            if len(distinct) < len(index):
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
