# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a trained model can do on procedural images that it has not seen."""

import open_clip
import torch
from open_clip import CLIP
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from .canvases import COLORS, NAMES, render_many
from .captions import is_true
from .model import MODEL_CONFIG, encode_texts, encode_windows
from .more_textures import TEXTURES
from .windows import GROUP, Batch, Windows

HELD_OUT_SEED = 1_000_003
"""Added to the training seed; no canvas or mark is shared with training."""


@torch.no_grad()
def held_out_quality(
    model: CLIP, seed: int = 0, canvases: int = 240, layers: tuple[int, ...] = (4, 5)
) -> dict[str, float]:
    """Measure a model on held-out canvases, four 160-pixel windows of each.

    Args:
        model: The model, in evaluation mode.
        seed: The training seed.
        canvases: Number of canvases.
        layers: 1-based layers whose mean feature a memory bank uses.

    Returns:
        Percentages: zero-shot accuracies on clean windows (``texture``, ``color``), 1-of-many accuracy over all
        captions of 16 canvases (``caption``), AUROC of "abnormal X" against "X" for windows and for patches (``window
        state``, ``patch state``), patch AUROC of the distance to a clean window of the same canvas (``memory``). And
        ``state cosine``, the mean cosine between "abnormal X" and "X" over all names.
    """
    rendered, labels = render_many(canvases, seed + HELD_OUT_SEED)
    windows = Windows(rendered, labels, MODEL_CONFIG["vision_cfg"]["patch_size"], seed + HELD_OUT_SEED, marks=400)
    generator = torch.Generator().manual_seed(seed + HELD_OUT_SEED)
    batches = [windows.batch(16, 160, generator) for _ in range(canvases // 16)]
    results = [_batch_quality(model, batch, layers) for batch in batches]
    quality = {name: 100 * sum(result[name] for result in results) / len(results) for name in results[0]}
    facts = torch.cat([batch.facts[batch.facts[:, 2] == 0] for batch in batches])
    images = torch.cat([encode_windows(model, batch.windows).image[batch.facts[:, 2] == 0] for batch in batches])
    quality["texture"] = 100 * _zero_shot(model, images, facts[:, 0], list(TEXTURES))
    quality["color"] = 100 * _zero_shot(model, images, facts[:, 1], list(COLORS))
    plain, abnormal = (_embed(model, [f"{word}{name}" for name in NAMES]) for word in ("", "abnormal "))
    return quality | {"state cosine": float((plain * abnormal).sum(1).mean())}


def _embed(model: CLIP, texts: list[str]) -> Tensor:
    return encode_texts(model, open_clip.tokenize(texts))


def _batch_quality(model: CLIP, batch: Batch, layers: tuple[int, ...]) -> dict[str, float]:
    """Measure what can be measured batch by batch, each in [0, 1]."""
    seen = encode_windows(model, batch.windows)
    texts = _embed(model, batch.texts)
    best = (seen.image @ texts.t()).argmax(1)
    right = is_true(batch.facts, batch.text_facts)[torch.arange(len(best)), best]
    own = texts.unflatten(0, (-1, 3))[torch.arange(len(best)) // GROUP]  # (n, 3, embed_dim)
    lean = own[:, 1] - own[:, 0]  # toward "abnormal"
    known = batch.patch_labels >= 0
    features = torch.stack([seen.hidden[layer - 1] for layer in layers]).mean(0)
    groups = F.normalize(features, dim=-1).unflatten(0, (-1, GROUP))
    distance = 1 - torch.einsum("gkpd,gqd->gkpq", groups, groups[:, 0]).amax(3).flatten(0, 1)
    queries = known & (torch.arange(len(best)) % GROUP > 0)[:, None]
    return {
        "caption": float(right.float().mean()),
        "window state": float(binary_auroc((seen.image * lean).sum(1), batch.facts[:, 2])),
        "patch state": float(binary_auroc((seen.patches @ lean[..., None])[..., 0][known], batch.patch_labels[known])),
        "memory": float(binary_auroc(distance[queries], batch.patch_labels[queries])),
    }


def _zero_shot(model: CLIP, images: Tensor, truth: Tensor, words: list[str]) -> float:
    """Compute the accuracy over the images that one of ``words`` (the first names or colors) describes."""
    texts = _embed(model, [f"a photo of a {word}" for word in words])
    chosen = (truth >= 0) & (truth < len(words))
    return float(((images[chosen] @ texts.t()).argmax(1) == truth[chosen]).float().mean())
