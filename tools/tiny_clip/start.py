# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Start values that already see texture: cosines in the patch embedding, filter energies in the first layer.

Trained from random weights, a tower of this size spends its first hour on finding oriented filters and their
energies. Both are known, so they are put in: the patch embedding computes cosine coefficients, a closed-form least-
squares fit makes the first layer's MLP turn them into logarithmic filter energies, and a constant direction is added,
so that the cosine of two patches orders like the Euclidean distance of their energies. The other layers start close
to the identity.
"""

import math

import torch
from open_clip import CLIP
from scipy.fft import idctn
from torch import Tensor, nn
from torch.nn import functional as F

from .filters import filter_energies
from .model import normalize_pixels

COLOR_COSINES = 12
CONSTANTS = 18
"""Channels that carry the same value everywhere; layer normalization turns them into a measure of contrast."""
GAIN = 2.0
LENGTH = 9.0
"""Length of the constant direction; the energies of a patch have a length of about 5."""
CENTERED_SHARE, COMMON_SHARE = 0.7, 0.3
"""How much of an image's mean energies the second layer subtracts from its patches, and records elsewhere."""
RESIDUAL_SCALE = 0.2
"""What the later layers' output weights are multiplied by."""


@torch.no_grad()
def start_from_filters(model: CLIP, windows: Tensor, generator: torch.Generator) -> float:
    """Set the start values of the visual tower.

    Args:
        model: The model, with open_clip's random weights.
        windows: Windows to fit to, shape (n, 3, size, size) in [0, 1].
        generator: Source of the rotation that spreads energies over the channels.

    Returns:
        The share of the energies' variance that the first layer explains on ``windows``.
    """
    visual = model.visual
    width, _, patch, _ = visual.conv1.weight.shape
    visual.conv1.weight.zero_()
    cosines = cosine_basis(width - CONSTANTS, patch)
    visual.conv1.weight[: len(cosines)] = cosines
    visual.positional_embedding.zero_()
    visual.positional_embedding[:, len(cosines) :: 2] = 1.0
    visual.positional_embedding[:, len(cosines) + 1 :: 2] = -1.0
    for block in visual.transformer.resblocks:
        block.attn.out_proj.weight.mul_(RESIDUAL_SCALE)
        block.mlp.c_proj.weight.mul_(RESIDUAL_SCALE)
        block.mlp.c_proj.bias.zero_()
    first = visual.transformer.resblocks[0]
    first.attn.out_proj.weight.mul_(RESIDUAL_SCALE)
    unit = torch.eye(width)
    first.mlp.c_fc.weight[: 2 * width] = GAIN * torch.cat([unit, -unit])
    first.mlp.c_fc.bias[: 2 * width] = 0
    tokens = visual.conv1(normalize_pixels(windows)).flatten(2).transpose(1, 2) + visual.positional_embedding[1]
    hidden = F.gelu(first.mlp.c_fc(F.layer_norm(tokens, (width,)))).flatten(0, 1)
    energies = filter_energies(windows, patch).flatten(0, 1)
    basis = torch.randn(width, 2 * energies.shape[1] + 2, generator=generator)
    basis[:, 0] = 1  # layer normalization removes this direction: keep it free
    constant, own, common = torch.linalg.qr(basis).Q[:, 1:].split([1, energies.shape[1], energies.shape[1]], 1)
    explained = _fit_energies(first.mlp.c_proj, hidden, energies, own, LENGTH * constant[:, 0])
    _center_on_image(visual.transformer.resblocks[1].attn, own, common)
    return explained


def _fit_energies(layer: nn.Linear, hidden: Tensor, energies: Tensor, own: Tensor, constant: Tensor) -> float:
    """Make ``layer`` replace its block's input by standardized energies and the constant direction.

    GELU(x) - GELU(-x) = x, so the input itself can be subtracted exactly.

    Args:
        layer: The MLP's second layer.
        hidden: Its inputs, shape (n, hidden width); the first half comes in pairs of opposite sign.
        energies: Targets, shape (n, energies).
        own: Directions that take the energies, shape (width, energies).
        constant: What is added to every token, shape (width,).
    """
    targets = (energies - energies.mean(0)) / energies.std(0)
    inputs = torch.cat([hidden, torch.ones(len(hidden), 1)], 1)
    ridge = 1e-4 * len(inputs) * torch.eye(inputs.shape[1])
    solution = torch.linalg.solve(inputs.t() @ inputs + ridge, inputs.t() @ targets)
    layer.weight.copy_(own @ solution[:-1].t())
    unit = torch.eye(len(constant)) / GAIN
    layer.weight[:, : 2 * len(constant)] -= torch.cat([unit, -unit], 1)
    layer.bias.copy_(own @ solution[-1] + constant)
    return float((1 - (inputs @ solution - targets).var(0) / targets.var(0)).mean())


def _center_on_image(attention: nn.MultiheadAttention, own: Tensor, common: Tensor) -> None:
    """Make the first head subtract the image's mean energies from every patch, and record them in other directions.

    Args:
        attention: Attention of the second layer.
        own: Directions of the energies, shape (width, energies).
        common: Directions that take a share of the image's mean, same shape.
    """
    width, energies = own.shape
    head = width // attention.num_heads
    attention.in_proj_weight[:head] *= 0.1  # queries and keys of the first head: nearly uniform attention
    attention.in_proj_weight[width : width + head] *= 0.1
    attention.in_proj_weight[2 * width : 2 * width + energies] = own.t()
    scale = math.sqrt((LENGTH**2 + energies) / width)  # layer normalization divided by about this
    attention.out_proj.weight[:, :energies] = scale * (COMMON_SHARE * common - CENTERED_SHARE * own)


def cosine_basis(count: int, size: int) -> Tensor:
    """Return 2D cosines of a patch: mostly on gray, ``COLOR_COSINES`` on each of two color differences.

    On gray all slow cosines are taken and an even sample of the fast ones. A cosine of frequency f weighs 1 + f,
    which undoes the 1/f fall of natural spectra.

    Returns:
        Shape (count, 3, size, size).
    """
    frequencies = sorted(((u, v) for u in range(size) for v in range(size)), key=lambda f: (math.hypot(*f), f))
    slow = [f for f in frequencies if math.hypot(*f) < 6]
    fast = frequencies[len(slow) :]
    gray = count - 2 * COLOR_COSINES - len(slow)
    chosen = slow + [fast[i * len(fast) // gray] for i in range(gray)]
    plan = (
        ((1, 1, 1), 3, chosen),
        ((1, -1, 0), 2, frequencies[:COLOR_COSINES]),
        ((1, 1, -2), 4, frequencies[:COLOR_COSINES]),
    )
    basis = []
    for direction, norm, some in plan:
        for u, v in some:
            spectrum = torch.zeros(size, size)
            spectrum[u, v] = (1 + math.hypot(u, v)) / 4 if u or v else 1 / 16
            cosine = torch.from_numpy(idctn(spectrum.numpy(), norm="ortho"))
            basis.append(torch.tensor(direction)[:, None, None] / norm * cosine)
    return torch.stack(basis).float()
