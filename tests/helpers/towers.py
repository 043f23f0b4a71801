# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Plain transcriptions of the prompted towers, equations (3) to (6), on the blocks of an open_clip model.

The order of the visual tokens differs from the package's, [signal, prompts, CLS, patches] as the paper writes it: a
transformer without a causal mask must not care. The text runs over the whole context length.
"""

from collections.abc import Sequence

import open_clip
import torch


def run_block(transformer: torch.nn.Module, layer: int, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One block of either generation of open_clip on a batch-first sequence."""
    block = transformer.resblocks[layer]
    if getattr(transformer, "batch_first", False):
        return block(x, attn_mask=mask)
    return block(x.permute(1, 0, 2), attn_mask=mask).permute(1, 0, 2)


def plain_visual(
    clip: open_clip.CLIP,
    image: torch.Tensor,
    prompts: Sequence[torch.Tensor] = (),
    signal: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Equation (6) for a single image of shape (3, H, W).

    Returns the image embedding (D,), the patch tokens after ``ln_post`` (n, d_v) and the patch tokens of every layer.
    """
    visual = clip.visual
    grid = visual.conv1(image.unsqueeze(0))[0]  # (d_v, h, w)
    patches = [grid[:, i, j] for i in range(grid.shape[1]) for j in range(grid.shape[2])]
    z = torch.stack([visual.class_embedding, *patches]) + visual.positional_embedding
    z = visual.ln_pre(z.unsqueeze(0))[0]  # z_0 = [CLS, patches]
    signals = [] if signal is None else [signal.unsqueeze(0)]
    layers = []
    previous = z.new_empty(0, z.shape[1])
    for layer in range(len(visual.transformer.resblocks)):
        present = prompts[layer] if layer < len(prompts) else previous
        sequence = torch.cat([*signals, present, z])
        sequence = run_block(visual.transformer, layer, sequence.unsqueeze(0), None)[0]
        if signals:
            signals, sequence = [sequence[:1]], sequence[1:]
        previous, z = sequence[: len(present)], sequence[len(present) :]
        layers.append(z[1:])
    z = visual.ln_post(z.unsqueeze(0))[0]
    return z[0] @ visual.proj, z[1:], layers


def plain_text(clip: open_clip.CLIP, tokens: torch.Tensor, prompts: Sequence[torch.Tensor] = ()) -> torch.Tensor:
    """Equation (5) for a single text of shape (77,), over the whole context length; the embedding (D,)."""
    num_prompts = len(prompts[0]) if len(prompts) else 0
    words = clip.token_embedding(tokens)
    first = prompts[0] if len(prompts) else words[:0]
    w = torch.cat([words[:1], first, words[1:]])[: len(words)] + clip.positional_embedding
    for layer in range(len(clip.transformer.resblocks)):
        if 0 < layer < len(prompts):
            w = torch.cat([w[:1], prompts[layer], w[1 + num_prompts :]])
        w = run_block(clip.transformer, layer, w.unsqueeze(0), clip.attn_mask)[0]
    end = tokens.tolist().index(49407) + num_prompts
    return clip.ln_final(w[end]) @ clip.text_projection
