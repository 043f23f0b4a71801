# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Training batches: groups of four windows of one canvas, two clean and two damaged.

Windows of a group share scale, direction, color and blur; place, light and noise differ, as between photographs of
parts of one kind. The first window plays the memory bank's part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .captions import ABNORMAL, NORMAL, captions_of, vocabulary_captions
from .damage import damage, patch_labels, place
from .marks import mark_library

GROUP = 4
"""Windows per canvas: two clean, two damaged."""


@dataclass(frozen=True)
class Batch:
    """One training batch of g canvases and n = 4 g windows of p patches.

    Args:
        windows: Shape (n, 3, size, size) in [0, 1]; window k of canvas i is row 4 i + k, damaged for k >= 2.
        patch_labels: Shape (n, p): 1 defect, 0 normal, -1 neither.
        facts: What each window shows: (name, color, state, mark), shape (n, 4).
        patch_facts: The same for each patch, shape (n, p, 4).
        texts: 3 g captions; see ``captions.captions_of``.
        text_facts: What they state, shape (3 g, 4).
        vocabulary: One caption for every name and color.
        vocabulary_facts: What they state.
    """

    windows: Tensor
    patch_labels: Tensor
    facts: Tensor
    patch_facts: Tensor
    texts: list[str]
    text_facts: Tensor
    vocabulary: list[str]
    vocabulary_facts: Tensor


class Windows:
    """Source of batches, cut out of rendered canvases.

    Args:
        images: Canvases, uint8, shape (n, 4, side, side); a memory map will do.
        labels: Name, color and ground of every canvas, int64, shape (n, 3).
        patch: Patch side of the model.
        seed: Seed of the marks.
        strangers: Words outside the captions' grammar that now and then stand for a name.
        marks: Number of marks drawn once.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        patch: int,
        seed: int,
        strangers: Sequence[str] = (),
        marks: int = 2400,
    ) -> None:
        self.images, self.labels = images, torch.from_numpy(labels)
        masks, kinds = mark_library(marks, seed)
        self.masks, self.kinds = torch.from_numpy(masks), torch.from_numpy(kinds)
        self.patch, self.strangers = patch, strangers

    def batch(self, groups: int, size: int, generator: torch.Generator) -> Batch:
        """Draw ``groups`` canvases and cut four ``size``-pixel windows from each."""
        chosen = torch.randint(len(self.images), (groups,), generator=generator)
        images = torch.from_numpy(self.images[chosen.sort().values.numpy()])
        name, color, ground = self.labels[chosen.sort().values].unbind(1)
        cut = cut_windows(images, size, ground >= 0, generator)  # (g, 4, 4, size, size)
        rgb, alpha = relight(cut[:, :, :3], generator).clamp(0, 1), cut[:, :, 3]
        mark = torch.randint(len(self.masks), (groups, 2), generator=generator)
        masks = place(self.masks[mark.flatten()][:, None].float() / 255, size, generator)
        masks = masks * alpha[:, 2:].flatten(0, 1)[:, None]
        others = rgb.roll(1, 0)[:, :2].flatten(0, 1)
        damaged, visible = damage(rgb[:, 2:].flatten(0, 1), others, masks, generator)
        rgb = torch.cat([rgb[:, :2], damaged.unflatten(0, (groups, 2))], 1)
        noise = torch.rand(groups, 1, 1, 1, 1, generator=generator) ** 2 * 0.04
        rgb = (rgb + noise * torch.randn(rgb.shape, generator=generator)).clamp(0, 1)
        visible = torch.cat([torch.zeros(groups, 2, size, size), visible.unflatten(0, (groups, 2))], 1)
        labels = patch_labels(visible.flatten(0, 1), self.patch)
        kinds = self.kinds[mark]
        facts, patch_facts = self._facts(name, color, ground, kinds, alpha, labels)
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        texts = self._captions(name, color, kinds, rng)
        return Batch(rgb.flatten(0, 1), labels, facts, patch_facts, *texts, *vocabulary_captions(rng))

    def _facts(
        self, name: Tensor, color: Tensor, ground: Tensor, kinds: Tensor, alpha: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what windows and patches show: shapes (n, 4) and (n, p, 4)."""
        p = labels.shape[1]
        state = torch.where((labels == 1).any(1), ABNORMAL, NORMAL)
        mark = torch.full((len(name), GROUP), -1)
        mark[:, 2:] = kinds
        mark = torch.where(state == ABNORMAL, mark.flatten(), -1)
        name, color, ground = (row.repeat_interleave(GROUP) for row in (name, color, ground))
        facts = torch.stack([name, color, state, mark], 1)
        patch_facts = facts[:, None].repeat(1, p, 1)
        front = F.avg_pool2d(alpha.flatten(0, 1)[:, None], self.patch).flatten(1) > 0.5  # (n, p)
        patch_facts[..., 0] = torch.where(front, name[:, None], ground[:, None])
        patch_facts[..., 1] = torch.where(front, color[:, None], -1)
        patch_facts[..., 2] = labels.clamp(min=0)
        patch_facts[..., 3] = torch.where(labels == 1, mark[:, None], -1)
        return facts, patch_facts

    def _captions(
        self, name: Tensor, color: Tensor, kinds: Tensor, rng: np.random.Generator
    ) -> tuple[list[str], Tensor]:
        """Return three captions for every canvas."""
        texts: list[str] = []
        facts: list[Tensor] = []
        for n, c, k in zip(name.tolist(), color.tolist(), kinds[:, 0].tolist(), strict=True):
            stranger = str(rng.choice(self.strangers)) if self.strangers and rng.random() < 0.12 else None
            some_texts, some_facts = captions_of(rng, n, c, k, stranger)
            texts += some_texts
            facts.append(some_facts)
        return texts, torch.cat(facts)


def cut_windows(images: Tensor, size: int, whole: Tensor, generator: torch.Generator) -> Tensor:
    """Cut four windows from every canvas.

    Args:
        images: uint8, shape (g, channels, side, side).
        size: Side of a window.
        whole: Shape (g,): show (nearly) the whole canvas, as for objects, instead of a small part.
        generator: Source of randomness.

    Returns:
        Shape (g, 4, channels, size, size) in [0, 1].
    """
    g, channels, side, _ = images.shape

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(*shape).uniform_(low, high, generator=generator)

    share = (size / side * torch.exp(draw(-0.45, 0.55, g, 1))).clamp(max=0.85)
    share = torch.where(whole[:, None], draw(0.92, 1.05, g, 1), share)
    scale = (share * torch.exp(draw(-0.02, 0.02, g, GROUP)))[..., None] * torch.exp(draw(-0.2, 0.2, g, 1, 2))
    flip = torch.randint(2, (g, 1, 2), generator=generator) * 2.0 - 1
    turn = draw(-0.03, 0.03, g, GROUP) + torch.where(whole[:, None], 0.0, draw(-0.15, 0.15, g, 1))
    move = draw(-1, 1, g, GROUP, 2) * torch.where(whole[:, None, None], 0.04, (0.97 - scale).clamp(min=0.02))
    cos, sin = turn.cos(), turn.sin()
    sy, sx = (scale * flip).unbind(-1)
    theta = torch.stack([cos * sx, -sin * sy, move[..., 0], sin * sx, cos * sy, move[..., 1]], -1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [g * GROUP, 1, size, size], align_corners=False).view(g, GROUP * size, size, 2)
    cut = F.grid_sample(images.float() / 255, grid, align_corners=False, padding_mode="reflection")
    quarter = torch.rand(g, generator=generator) < 0.3
    cut = cut.view(g, channels, GROUP, size, size).transpose(1, 2)
    return torch.where(quarter[:, None, None, None, None], cut.transpose(3, 4), cut)


def relight(windows: Tensor, generator: torch.Generator) -> Tensor:
    """Change color and contrast per group, light per window.

    Args:
        windows: Shape (g, 4, 3, size, size) in [0, 1].
        generator: Source of randomness.

    Returns:
        Same shape; may leave [0, 1] slightly.
    """
    g, k, _, size, _ = windows.shape

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(*shape, 1, 1, 1).uniform_(low, high, generator=generator)

    gray = windows.mean(2, keepdim=True)
    windows = torch.where(draw(0, 1, g, 1) < 0.35, gray.expand_as(windows), windows)
    mean = windows.mean((1, 2, 3, 4), keepdim=True)
    windows = mean * draw(0.75, 1.5, g, 1) + (windows - mean) * draw(0.35, 1.5, g, 1)
    line = torch.linspace(-1, 1, size)
    angle = draw(0, 2 * math.pi, g, k)
    gradient = angle.cos() * line[None, :] + angle.sin() * line[:, None]
    windows = windows * (1 + draw(0, 0.15, g, k) * gradient) * draw(0.92, 1.08, g, k) + draw(-0.03, 0.03, g, k)
    soft = F.avg_pool2d(windows.flatten(0, 2)[:, None], 3, 1, 1, count_include_pad=False).view_as(windows)
    return torch.where(draw(0, 1, g, 1) < 0.25, soft, windows)
