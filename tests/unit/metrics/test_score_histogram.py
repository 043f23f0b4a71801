# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anople_anomalib.metrics.score_histogram import ScoreHistogram, auroc

VALUES = torch.tensor(
    [-2.0, -1.0, -0.7, -1e-30, 0.0, 1e-40, 1e-30, 0.1, 0.5, 0.5000001, 0.9999999, 1.0, 1.0000001, 3e38]
)


def value(histogram: ScoreHistogram) -> float:
    counts = histogram.read()
    return auroc(counts.normal, counts.anomalous).item()


def test_every_number_has_its_bin() -> None:
    histogram = ScoreHistogram()
    histogram.update(VALUES, torch.zeros(len(VALUES)))
    assert torch.equal(histogram.normal_scores().float(), VALUES)
    histogram.update(torch.tensor([-0.0]), torch.ones(1))
    assert histogram.read().anomalous[histogram.read().lowest == 0].tolist() == [1]


def draw(name: str, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Raw scores of 3 % anomalous pixels; the first four are logits of (normal, anomalous) with their deviations."""
    logits = {
        "a": (-4, 2, -1, 3),
        "b": (-8, 3, -3, 4),
        "c": (-12, 4, -6, 6),
        "d": (-2, 1, 0, 1.5),
    }
    normal, spread, anomalous, anomalous_spread = logits.get(name[0] if name[0] in logits else name, (0, 1, 1, 1))
    z = np.where(truth, rng.normal(anomalous, anomalous_spread, len(truth)), rng.normal(normal, spread, len(truth)))
    if name == "narrow":
        return 100 + 1e-3 * z
    if name == "large":
        return 3e4 + 1e3 * z
    probability = 1 / (1 + np.exp(-z))
    if not name.endswith("memory"):
        return probability
    distance = np.where(truth, rng.normal(0.05, 0.02, len(truth)), rng.normal(0.03, 0.01, len(truth))).clip(0.002)
    return 1 / (1 / probability + 1 / distance)


@pytest.mark.parametrize(
    "name", ["a", "b", "c", "d", "a memory", "b memory", "c memory", "d memory", "narrow", "large"]
)
def test_rounding_costs_less_than_half_a_thousandth(name: str) -> None:
    """Also where every score would be another number, and with far fewer bins than there are scores."""
    rng = np.random.default_rng(0)
    truth = rng.random(200_000) < 0.03
    scores = draw(name, truth, rng).astype(np.float32)
    histogram = ScoreHistogram(capacity=2**15)
    for part in range(0, len(truth), 50_000):
        histogram.update(torch.from_numpy(scores[part : part + 50_000]), torch.from_numpy(truth[part : part + 50_000]))
    assert len(histogram.keys) <= 2**15
    error = abs(value(histogram) - roc_auc_score(truth, scores))
    assert error <= 5e-4


def everything(histogram: ScoreHistogram) -> tuple[int, Tensor, Tensor]:
    return histogram.shift, histogram.keys, histogram.counts


def test_order_and_batches_do_not_matter() -> None:
    scores, truth = torch.rand(4000), torch.rand(4000) < 0.1
    whole, reverse = ScoreHistogram(capacity=500), ScoreHistogram(capacity=500)
    whole.update(scores, truth)
    for part in range(3999, -1, -1000):
        reverse.update(scores[part - 999 : part + 1].flip(0), truth[part - 999 : part + 1].flip(0))
    for own, other in zip(everything(whole), everything(reverse), strict=True):
        assert torch.equal(torch.as_tensor(own), torch.as_tensor(other))


def test_bins_hold_their_scores() -> None:
    scores = torch.randn(3000)
    histogram = ScoreHistogram(capacity=64)
    histogram.update(scores, scores > 0)
    counts = histogram.read()
    assert (counts.lowest[:-1] > counts.highest[1:]).all()
    for low, high, number in zip(counts.lowest, counts.highest, counts.normal + counts.anomalous, strict=True):
        assert ((scores >= low) & (scores <= high)).sum() == number


def test_odd_scores_are_counted() -> None:
    histogram = ScoreHistogram()
    histogram.update(
        torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0]).bfloat16(), torch.tensor([True] * 4)
    )
    assert histogram.read().anomalous.sum() == 4
    assert not histogram.has_normal
    with pytest.raises(ValueError, match="of one size"):
        histogram.update(torch.rand(3), torch.ones(4))
