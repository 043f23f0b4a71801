# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP and its two prompted towers, equations (3) to (6) of the AnoPLe paper.

The only file that knows the insides of open_clip's models. It reads the attributes that all supported versions share
and works batch-first; blocks of old versions (before 2.26) are sequence-first. Tokens are cut out as
``x[..., a:b, :]``, since ``x[:, a:b]`` fixes the batch of an export made with torch 2.6.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from anople_anomalib.utils.scoped import bfloat16_products

from .attention import attend, attend_values, require_multihead
from .frozen import FrozenModule
from .outputs import ValueFeatures, VisualFeatures


class PromptedVisualTower(nn.Module):
    """open_clip's vision transformer with prompts as extra tokens.

    The extra tokens stand at the end of the sequence (its order is free without a causal mask): the view signal,
    which enters at the first layer and propagates, and then the prompts, which are replaced in the prompted layers
    and propagate after them.

    Args:
        visual: The visual tower of an open_clip model.
    """

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.visual = visual

    @property
    def width(self) -> int:
        """Width d_v."""
        return self.visual.class_embedding.shape[0]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.visual.transformer.resblocks)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the tower takes."""
        return tuple(self.visual.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patch grid."""
        return tuple(self.visual.grid_size)

    def forward(
        self,
        images: torch.Tensor,
        prompts: Sequence[torch.Tensor] = (),
        view_signal: torch.Tensor | None = None,
        layers: Sequence[int] = (),
        rounded: bool = False,
    ) -> VisualFeatures:
        """Encode images with prompts, if there are any, equation (6).

        Args:
            images: Normalized images, shape ``(B, 3, *image_size)``.
            prompts: Prompts of the first J layers, each of shape ``(C, d_v)``.
            view_signal: c_i of every image, shape ``(B, d_v)``.
            layers: 1-based numbers of the layers whose patch features are wanted.
            rounded: Whether the blocks may multiply in bfloat16, where that is faster; the sum that runs from block to
                block is float32, as is what is returned.

        Returns:
            Image embedding, patch tokens and patch features of the layers.
        """
        x = self._embed(images)  # (B, 1 + n, d_v)
        patches = slice(1, x.shape[1])
        if view_signal is not None:
            x = torch.cat([x, view_signal.unsqueeze(1).to(x.dtype)], dim=1)
        length, found = x.shape[1], []
        for layer, block in enumerate(self.visual.transformer.resblocks):
            if layer < len(prompts):  # the prompts of the layer before give way; after layer J they propagate
                x = torch.cat([x[..., :length, :], _expand(prompts[layer], x)], dim=1)
            with bfloat16_products(x, wanted=rounded):
                x = _run(self.visual.transformer, block, x)
            if layer + 1 in layers:
                found.append(x[..., patches, :])
        x = self.visual.ln_post(x[..., : patches.stop, :])  # prompts and signal have done their work
        return VisualFeatures(
            image_embedding=x[..., 0, :] @ self.visual.proj,
            patch_tokens=x[..., patches, :],
            layers=tuple(found),
        )

    def encode_by_values(self, images: torch.Tensor, memory_layers: Sequence[int] = ()) -> ValueFeatures:
        """Encode images without prompts, and gather local features by V-V attention on the way.

        A second path starts at the embedded tokens and adds in every layer the attention of the values to themselves,
        ``softmax(V V^T / sqrt(d)) V``, of the tokens of the first path, which is CLIP's own; it has no MLP. A patch
        attends to those that look like it, and keeps its place.

        Args:
            images: Normalized images, shape ``(B, 3, *image_size)``.
            memory_layers: 1-based numbers of the layers whose patch features are wanted.

        Returns:
            Image embedding, local features, and patch features of the layers.

        Raises:
            ValueError: If a layer has an attention of its own kind, which keeps its values to itself.
        """
        x = self._embed(images)  # (B, 1 + n, d_v)
        local, memory = x, []
        for layer, block in enumerate(self.visual.transformer.resblocks):
            local = local + block.ls_1(attend_values(require_multihead(block), block.ln_1(x)))
            x = _run(self.visual.transformer, block, x)
            if layer + 1 in memory_layers:
                memory.append(x[..., 1:, :])
        return ValueFeatures(
            image_embedding=self.visual.ln_post(x[..., 0, :]) @ self.visual.proj,
            local_features=self.visual.ln_post(local[..., 1:, :]) @ self.visual.proj,
            memory_features=tuple(memory),
        )

    def project(self, patch_tokens: torch.Tensor) -> torch.Tensor:
        """Map patch tokens ``(B, n, d_v)`` as CLIP does CLS, to local features ``(B, embed_dim, h, w)``."""
        return rearrange(patch_tokens @ self.visual.proj, "b (h w) d -> b d h w", h=self.grid[0], w=self.grid[1])

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images as the tokens [CLS, patches] that enter the first layer."""
        x = rearrange(self.visual.conv1(images.to(self.visual.conv1.weight.dtype)), "b d h w -> b (h w) d")
        x = torch.cat([_expand(self.visual.class_embedding.unsqueeze(0), x), x], dim=1)
        return self.visual.ln_pre(x + self.visual.positional_embedding.to(x.dtype))


class PromptedTextTower(nn.Module):
    """open_clip's text transformer with prompts after the start token.

    Args:
        clip: The open_clip model whose text tower is used.
    """

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.register_buffer("attn_mask", clip.attn_mask, persistent=False)
        self.attn_mask: torch.Tensor

    @property
    def width(self) -> int:
        """Width d_t."""
        return self.positional_embedding.shape[1]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.transformer.resblocks)

    @property
    def context_length(self) -> int:
        """Largest number of tokens."""
        return self.positional_embedding.shape[0]

    def length(self, tokens: torch.Tensor, num_prompts: int) -> int:
        """Return the number of positions that the longest text takes up, together with the prompts.

        Args:
            tokens: Token numbers [SOS, words, EOT, padding], shape ``(P, L)``.
            num_prompts: Number of prompts in a layer.

        Returns:
            At most the context length.

        Raises:
            ValueError: If it would be more.
        """
        num_tokens = int(tokens.argmax(dim=1).max()) + 1  # EOT has the highest number
        if num_tokens + num_prompts > self.context_length:
            msg = (
                f"A text of {num_tokens} tokens and {num_prompts} prompts exceed the text tower's context length of "
                f"{self.context_length}: shorten the class name or the context lengths."
            )
            raise ValueError(msg)
        return num_tokens + num_prompts

    def forward(
        self, tokens: torch.Tensor, prompts: Sequence[torch.Tensor] = (), suffixes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode texts with prompts, equation (5).

        Runs only up to the longest text: tokens behind it cannot reach an end token through the causal mask.

        Args:
            tokens: Token numbers [SOS, words, EOT, padding], shape ``(P, L)``.
            prompts: Prompts of the first J layers, each of shape ``(C, d_t)``, or ``(P, C, d_t)`` for texts of their
                own.
            suffixes: Learnable tokens between the words and EOT, which propagate, shape ``(P, E, d_t)``.

        Returns:
            Text embeddings, shape ``(P, embed_dim)``; not normalized.

        Raises:
            ValueError: If a text and the prompts together exceed the context length.
        """
        num_prompts = prompts[0].shape[-2] if len(prompts) else 0
        num_suffixes = 0 if suffixes is None else suffixes.shape[1]
        length = self.length(tokens, num_prompts + num_suffixes)
        ends = tokens.argmax(dim=1)  # EOT has the highest number
        x = self.token_embedding(tokens[:, : length - num_prompts - num_suffixes])  # (P, L', d_t)
        if suffixes is not None:
            x, ends = _insert(x, suffixes, ends), ends + num_suffixes
        if num_prompts:
            x = torch.cat([x[:, :1], _expand(prompts[0], x), x[:, 1:]], dim=1)
        x = x + self.positional_embedding[:length].to(x.dtype)
        mask = self.attn_mask[:length, :length]
        for layer, block in enumerate(self.transformer.resblocks):
            if num_prompts and 0 < layer < len(prompts):
                x = torch.cat([x[:, :1], _expand(prompts[layer], x), x[:, 1 + num_prompts :]], dim=1)
            x = _run(self.transformer, block, x, mask)
        x = self.ln_final(x)[torch.arange(len(x), device=x.device), ends + num_prompts]
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x if self.text_projection is None else x @ self.text_projection


class FrozenCLIP(FrozenModule):
    """Both towers of an open_clip model, frozen and absent from state dicts.

    Gradients flow through the towers but not into them; they stay in evaluation mode.

    Args:
        clip: An open_clip model with plain transformers as towers, see :mod:`anople_anomalib.backbones.clip_loading`.
        fingerprint: 32 bytes that identify the weights.
    """

    def __init__(self, clip: CLIP, fingerprint: bytes) -> None:
        super().__init__()
        self.visual = PromptedVisualTower(clip.visual)
        self.text = PromptedTextTower(clip)
        # 1 / tau of equation (8); frozen like the towers, so not saved either
        self.register_buffer("logit_scale", clip.logit_scale.detach().exp().reshape(()), persistent=False)
        self.logit_scale: torch.Tensor
        self.fingerprint = fingerprint
        self.freeze()

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding."""
        return self.visual.visual.proj.shape[1]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no values inside the blocks for the backward pass from now on, or do: less memory, more time."""
        for transformer in (self.visual.visual.transformer, self.text.transformer):
            transformer.grad_checkpointing = enable  # open_clip's own flag


def _expand(token: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Repeat tokens of shape ``(C, D)`` for every sequence in ``like``."""
    return token.to(like.dtype).expand(like.shape[0], -1, -1)


def _insert(x: torch.Tensor, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Insert tokens, ``(P, E, D)``, into sequences, ``(P, L, D)``, before one place of each, ``(P,)``."""
    length, number = x.shape[1], tokens.shape[1]
    position = torch.arange(length + number, device=x.device)
    behind = position >= places.unsqueeze(1)  # (P, L + E)
    inserted = behind & (position < places.unsqueeze(1) + number)
    source = torch.where(behind, position - number, position)
    source = torch.where(inserted, length + position - places.unsqueeze(1), source)
    return torch.cat([x, tokens.to(x.dtype)], dim=1).gather(1, source.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _run(transformer: nn.Module, block: nn.Module, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Run one block on a batch-first sequence."""
    if transformer.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(_run_block, transformer, block, x, mask, use_reentrant=False)
    return _run_block(transformer, block, x, mask)


def _run_block(transformer: nn.Module, block: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Run one block, by torch's fused attention path where that is possible."""
    if isinstance(block, ResidualAttentionBlock):
        x = x + block.ls_1(attend(block.attn, block.ln_1(x), mask))
        return x + block.ls_2(block.mlp(block.ln_2(x)))
    if getattr(transformer, "batch_first", False):
        return block(x, attn_mask=mask)
    return block(x.transpose(0, 1), attn_mask=mask).transpose(0, 1)
