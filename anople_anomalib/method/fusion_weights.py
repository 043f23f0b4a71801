# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Weights of the parts of a fusion, by each part's success on defects simulated on the shots.

The defects share nothing with the anomalies of the training but the shots: neither seeds nor kinds, so that a part does
not win by having been trained on them.
"""

import math
from itertools import product
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from .fusion import WeightedFusion, Weights

_CLIP_SHARES = (0.0, 1 / 3)  # the second memory keeps most: a dozen views of one shot cannot judge that it should not
_DECODER_POWERS = (0.0, 0.25)  # simulated defects overrate more of it (docs/results.md)
_PROMPT_POWERS = (0.0, 0.25)
_PRICE = Weights(clip_share=0.02, decoder_power=0.01, prompt_power=0.02)  # in AUROC: a part must earn it to enter
_SIDE = 60  # of the maps that are compared


class Trial(NamedTuple):
    """The parts' maps of N trial images, shape ``(N, h, w)`` each."""

    probability: torch.Tensor  # p_hat, shape ``(N,)``
    decoder_map: torch.Tensor  # M_hat
    first_map: torch.Tensor  # map of the prompted CLIP's memory
    second_map: torch.Tensor | None  # map of the second memory, if there is one
    masks: torch.Tensor  # 1 where damaged

    def small(self) -> "Trial":
        """Return the same with maps of 60x60, at which they are compared."""
        maps = [None if part is None else F.adaptive_avg_pool2d(part.float(), _SIDE) for part in self[1:]]
        return Trial._make((self.probability, *maps))


def choose_weights(trial: Trial, fusion: WeightedFusion) -> tuple[Weights, float]:
    """Set the weights with the best mean of image and pixel AUROC; each part has to earn its place.

    Args:
        trial: Normal images, and as many damaged ones; see :meth:`Trial.small`.
        fusion: The fusion whose weights are set.

    Returns:
        The weights, and the gain in AUROC, prices paid, by prompts and decoder over the memories alone: 0 where both
        have weight 0.
    """
    values: dict[Weights, float] = {}
    damaged = (trial.masks > 0).int()
    shares = _CLIP_SHARES if trial.second_map is not None else (1.0,)
    for share, power in product(shares, _DECODER_POWERS):
        fusion.set_weights(Weights(share, power, 0.0))
        anomaly_map = fusion.map(trial.decoder_map, fusion.memory(trial.first_map, trial.second_map))
        pixels = binary_auroc(anomaly_map.flatten(), damaged.flatten())
        for weights in (Weights(share, power, prompt_power) for prompt_power in _PROMPT_POWERS):
            fusion.set_weights(weights)
            images = binary_auroc(fusion.score(trial.probability, anomaly_map), damaged.flatten(1).amax(dim=1))
            paid = sum(price for price, weight in zip(_PRICE, weights, strict=True) if weight > 0)
            values[weights] = float(images + pixels) / 2 - paid
    best = max(values, key=values.__getitem__)
    fusion.set_weights(best)
    return best, values[best] - max(value for weights, value in values.items() if not any(weights[1:]))


def draw(generator: torch.Generator, low: float, high: float) -> float:
    """Draw a number between two others."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def damage(image: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Damage an image by a scratch, a shade, a piece out of place, or a loss of texture.

    Args:
        image: Shape ``(1, 3, h, w)``, values in [0, 1].
        generator: Source of randomness, on the CPU.

    Returns:
        The damaged image, and its mask of shape ``(1, h, w)``, 1 where damaged.
    """
    height, width = image.shape[-2:]
    kind = int(torch.randint(4, (), generator=generator))
    inside = _damaged_place(height, width, generator, thin=kind == 0).to(image)
    if kind <= 1:
        filling = image + draw(generator, 0.15, 0.45) * (1 if draw(generator, 0, 1) < 0.5 else -1)
    elif kind == 2:
        shifts = [int(draw(generator, 0.2, 0.8) * side) for side in (height, width)]
        filling = image.rot90(2, (-2, -1)).roll(shifts, (-2, -1)) * draw(generator, 0.7, 1.3)
    else:
        radius = max(1, min(height, width) // 20)
        filling = F.avg_pool2d(F.pad(image, [radius] * 4, mode="reflect"), 2 * radius + 1, stride=1)
    opacity = (inside > 0).to(image) if kind == 0 else (4 * inside).clamp(0, 1)
    return (image + opacity * (filling - image)).clamp(0, 1), (inside > 0).to(image).unsqueeze(0)


def _damaged_place(height: int, width: int, generator: torch.Generator, *, thin: bool) -> torch.Tensor:
    """Draw a field of shape ``(h, w)`` that is positive within an irregular patch, or a thin, slightly wavy line."""
    noise = torch.zeros(())
    if not thin:
        cells = 2 * int(torch.randint(2, 5, (), generator=generator))
        noise = torch.randn(1, 1, cells, cells, generator=generator)
        noise = F.interpolate(noise, size=(height, width), mode="bicubic")[0, 0]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    y, x = y - draw(generator, 0.1, 0.9), x - draw(generator, 0.1, 0.9)
    if not thin:
        return (1 - torch.hypot(y, x) / draw(generator, 0.06, 0.2) + 0.5 * noise).clamp(-1, 1)
    angle, length, breadth = draw(generator, 0, math.pi), draw(generator, 0.1, 0.35), draw(generator, 0.006, 0.018)
    along = y * math.sin(angle) + x * math.cos(angle)
    across = x * math.sin(angle) - y * math.cos(angle) + 0.02 * torch.sin(40 * along)
    return torch.minimum(1 - along.abs() / length, 1 - across.abs() / breadth)
