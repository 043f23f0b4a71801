# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The model: open_clip's CLIP, run layer by layer, and its start values."""

from dataclasses import dataclass

import open_clip
import torch
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

MODEL_CONFIG: dict = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 240, "layers": 6, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
"""``model_cfg`` of the bundled backbone, as open_clip reads it."""

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


@dataclass(frozen=True)
class VisualOutput:
    """What the visual tower says about n windows of p patches.

    Args:
        hidden: Patch tokens after every layer, each of shape (n, p, width).
        image: L2-normalized image embeddings, shape (n, embed_dim).
        patches: L2-normalized embeddings of the last layer's patch tokens, shape (n, p, embed_dim).
    """

    hidden: list[Tensor]
    image: Tensor
    patches: Tensor


def build_model(seed: int, trained_tokens: Tensor | None = None) -> CLIP:
    """Build a new CLIP with random weights; the rows of tokens that are never trained are zero.

    Args:
        seed: Seed of the random weights.
        trained_tokens: Boolean, shape (vocab_size,): tokens that occur in captions; ``None``: no row is set to zero.
    """
    torch.manual_seed(seed)
    model = CLIP(**MODEL_CONFIG)
    if trained_tokens is not None:
        with torch.no_grad():
            model.token_embedding.weight[~trained_tokens] = 0
    return model


def normalize_pixels(windows: Tensor) -> Tensor:
    """Normalize RGB values in [0, 1] as CLIP does."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (windows - mean) / std


def encode_windows(model: CLIP, windows: Tensor, generator: torch.Generator | None = None) -> VisualOutput:
    """Run the visual tower.

    Windows smaller than the model's image use a part of the positional embedding at a random place, so that a patch's
    feature cannot rely on where it lies. During training every fourth batch carries a few random tokens more, as a
    prompted tower does.

    Args:
        model: The model.
        windows: Shape (n, 3, size, size) in [0, 1].
        generator: Source of randomness for training; ``None`` takes the upper left part and adds no tokens.
    """
    visual = model.visual
    tokens = visual.conv1(normalize_pixels(windows))  # (n, width, rows, columns)
    rows, columns = tokens.shape[2:]
    grid = int((len(visual.positional_embedding) - 1) ** 0.5)
    top, left = (
        (int(torch.randint(grid - side + 1, (), generator=generator)) if generator else 0) for side in (rows, columns)
    )
    place = visual.positional_embedding[1:].view(grid, grid, -1)[top : top + rows, left : left + columns]
    tokens = tokens.flatten(2).transpose(1, 2) + place.flatten(0, 1)  # (n, p, width)
    cls_token = (visual.class_embedding + visual.positional_embedding[0]).expand(len(tokens), 1, -1)
    extra = torch.zeros(len(tokens), 0, tokens.shape[2])
    if generator and torch.rand((), generator=generator) < 0.25:
        count = int(torch.randint(2, 9, (), generator=generator))
        extra = 0.02 * torch.randn(1, count, tokens.shape[2], generator=generator).expand(len(tokens), -1, -1)
    x = torch.cat([visual.ln_pre(torch.cat([cls_token, tokens], 1)), extra], 1)
    count, hidden = 1 + tokens.shape[1], []
    for block in visual.transformer.resblocks:
        x = block(x)
        hidden.append(x[:, 1:count])
    embedded = F.normalize(visual.ln_post(x[:, :count]) @ visual.proj, dim=-1)
    return VisualOutput(hidden, embedded[:, 0], embedded[:, 1:])


def encode_texts(model: CLIP, tokens: Tensor) -> Tensor:
    """Compute L2-normalized text embeddings, shape (n, embed_dim).

    The padding behind the longest caption is cut off: the tower is causal, so the result is the same.

    Args:
        model: The model.
        tokens: Token ids, shape (n, context_length), 0 after the end of the text.
    """
    length = int((tokens != 0).sum(1).max())
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
    return F.normalize(x @ model.text_projection, dim=-1)


def trained_token_mask(tokens: Tensor, vocab_size: int) -> Tensor:
    """Mark the tokens that occur in ``tokens`` of any shape: booleans of shape (vocab_size,)."""
    mask = torch.zeros(vocab_size, dtype=torch.bool)
    mask[tokens.flatten()] = True
    return mask


class FilterHeads(nn.Module):
    """Linear heads that predict filter energies from some layers' patch tokens.

    Args:
        width: Width of the tokens.
        energies: Number of filter energies.
        layers: 1-based layers that carry a head.
    """

    def __init__(self, width: int, energies: int, layers: tuple[int, ...] = (2, 4, 6)) -> None:
        super().__init__()
        self.layers = layers
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, energies)) for _ in layers)

    def forward(self, hidden: list[Tensor]) -> list[Tensor]:
        """Compute the predictions of every head, each of shape (n, p, energies)."""
        return [head(hidden[layer - 1]) for head, layer in zip(self.heads, self.layers, strict=True)]
