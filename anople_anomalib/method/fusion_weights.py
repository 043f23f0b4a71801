# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Weights of the parts of a fusion, by what each part achieves on anomalies simulated on the shots."""

from itertools import product
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from .fusion import WeightedFusion, Weights

_CLIP_SHARES = (0.0, 1 / 3)  # the second memory keeps most: a dozen views of one shot cannot judge that it should not
_DECODER_POWERS = (0.0, 0.25, 0.5, 1.0)
_PROMPT_POWERS = (0.0, 0.25)
_PRICE = Weights(clip_share=0.02, decoder_power=0.01, prompt_power=0.02)  # in AUROC: what a part must earn to enter
_SIDE = 60  # of the maps that are compared


class Trial(NamedTuple):
    """What the parts make of simulated anomalies and of normal images; N images.

    Attributes:
        probability: p_hat, shape ``(N,)``.
        decoder_map: M_hat, shape ``(N, h, w)``.
        first_map: Map of the prompted CLIP's memory, shape ``(N, h, w)``.
        second_map: Map of the second memory, shape ``(N, h, w)``.
        masks: 1 where anomalous, shape ``(N, h, w)``.
    """

    probability: torch.Tensor
    decoder_map: torch.Tensor
    first_map: torch.Tensor
    second_map: torch.Tensor | None
    masks: torch.Tensor

    def small(self) -> "Trial":
        """Return the same with maps of 60x60, which are sent between processes and compared."""
        maps = [None if part is None else _shrink(part) for part in self[1:]]
        return Trial._make((self.probability, *maps))


def choose_weights(trial: Trial, fusion: WeightedFusion) -> Weights:
    """Choose the weights with the best mean of image and pixel AUROC; each part has to earn its place.

    Args:
        trial: What the parts have made of simulated anomalies, and of as many normal images; see :meth:`Trial.small`.
        fusion: The fusion whose weights are sought; left as it was.

    Returns:
        The weights.
    """
    before = fusion.weights.clone()
    shares = _CLIP_SHARES if trial.second_map is not None else (1.0,)
    best, weights = float("-inf"), Weights(0.0, 0.0, 0.0)
    for share, power in product(shares, _DECODER_POWERS):
        fusion.set_weights(Weights(share, power, 0.0))
        anomaly_map = fusion.map(trial.decoder_map, fusion.memory(trial.first_map, trial.second_map))
        pixels = _auroc(anomaly_map.flatten(), trial.masks.flatten() > 0)
        for prompt_power in _PROMPT_POWERS:
            candidate = Weights(share, power, prompt_power)
            fusion.set_weights(candidate)
            images = _auroc(fusion.score(trial.probability, anomaly_map), trial.masks.flatten(1).amax(dim=1) > 0)
            paid = sum(price for price, weight in zip(_PRICE, candidate, strict=True) if weight > 0)
            if (value := (images + pixels) / 2 - paid) > best:
                best, weights = value, candidate
    fusion.weights.copy_(before)
    return weights


def _shrink(maps: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool2d(maps.unsqueeze(1).float(), _SIDE).squeeze(1)


def _auroc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    return float(binary_auroc(scores, labels.int()))
