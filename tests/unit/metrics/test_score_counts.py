# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Counts of scores and labels, against anomalib's and scikit-learn's metrics."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max, F1Score
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.metrics.score_counts import (
    METRICS,
    CategoryScores,
    ScoreHistogram,
    aupro,
    auroc,
    best_f1,
    region_weights,
)

VALUES = torch.tensor(
    [-2.0, -1.0, -0.7, -1e-30, 0.0, 1e-40, 1e-30, 0.1, 0.5, 0.5000001, 0.9999999, 1.0, 1.0000001, 3e38]
)


def batches(number: int = 3, levels: int = 0) -> list[SimpleNamespace]:
    """Anomaly maps, masks and labels; the first batch has no anomalies, the others one to four regions per image."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for regions in range(number):
        masks = torch.zeros(4, 48, 48, dtype=torch.bool)
        for mask in masks:
            for top, left in torch.randint(0, 40, (2 * regions, 2), generator=generator):
                mask[top : top + 8, left : left + 5] = True
        maps = nn.functional.avg_pool2d(torch.rand(4, 48, 48, generator=generator), 3, 1, 1) * 0.9 + 0.08 * masks
        maps = (maps * levels).round() / levels if levels else maps
        result.append(
            SimpleNamespace(
                anomaly_map=maps,
                gt_mask=masks,
                pred_mask=maps > 0.6,
                pred_score=maps.flatten(1).amax(1),
                pred_label=maps.flatten(1).amax(1) > 0.8,
                gt_label=masks.flatten(1).any(1),
            )
        )
    return result


def count(data: list[SimpleNamespace]) -> CategoryScores:
    counted = CategoryScores()
    for batch in data:
        counted.update_images(batch.pred_score, batch.pred_label, batch.gt_label)
        counted.update_pixels(batch.anomaly_map, batch.pred_mask, batch.gt_mask)
    return counted


ANOMALIBS = {
    "image_AUROC": AUROC(fields=["pred_score", "gt_label"]),
    "image_AUPR": AUPR(fields=["pred_score", "gt_label"]),
    "image_F1Max": F1Max(fields=["pred_score", "gt_label"]),
    "image_F1Score": F1Score(fields=["pred_label", "gt_label"]),
    "pixel_AUROC": AUROC(fields=["anomaly_map", "gt_mask"]),
    "pixel_AUPR": AUPR(fields=["anomaly_map", "gt_mask"]),
    "pixel_F1Max": F1Max(fields=["anomaly_map", "gt_mask"]),
    "pixel_AUPRO": AUPRO(fields=["anomaly_map", "gt_mask"]),
    "pixel_F1Score": F1Score(fields=["pred_mask", "gt_mask"]),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("levels", [0, 12])
def test_metrics_equal_anomalibs(name: str, levels: int) -> None:
    """Also where many scores are ties."""
    data, metric = batches(levels=levels), ANOMALIBS[name].clone()
    for batch in data:
        metric.update(batch)
    values, reasons = count(data).compute([name])
    assert not reasons
    assert values[name].item() == pytest.approx(metric.compute().item(), abs=1e-5)


def test_wrong_verdicts_are_counted_by_class() -> None:
    counted = CategoryScores()
    truth, labels = torch.tensor([False, False, True, True, True]), torch.tensor([True, False, False, True, False])
    counted.update_images(None, labels, truth, ["good", "good", "crack", "crack", "hole"])
    counted.update_images(None, torch.tensor([False]), torch.tensor([True]))
    assert counted.rates() == {"good": Rate(1, 2), "crack": Rate(1, 2), "hole": Rate(1, 1), "defective": Rate(1, 1)}


def test_perfect_maps_score_one() -> None:
    data = batches()
    for batch in data:
        batch.anomaly_map = batch.gt_mask.float()
        batch.pred_mask = batch.gt_mask
    values, _ = count(data).compute([name for name in METRICS if name.startswith("pixel")])
    assert all(value.item() == pytest.approx(1.0) for value in values.values())


def test_regions_count_alike_whatever_their_size() -> None:
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, :20, :20], mask[0, 30:32, 30:32] = True, True
    weights, regions = region_weights(mask)
    assert regions == 2
    assert weights.sum() == 2
    small_is_found = torch.zeros(1, 40, 40)
    small_is_found[0, 30:32, 30:32] = 1.0
    counted = CategoryScores()
    counted.update_images(torch.ones(1), None, None)
    counted.update_pixels(small_is_found, None, mask)
    # Half of the regions at once, the other half together with all normal pixels: 0.5 + 0.5 * FPR / 1, up to 0.3.
    assert counted.compute(["pixel_AUPRO"])[0]["pixel_AUPRO"].item() == pytest.approx(0.5 + 0.5 * 0.15)


def test_overlap_is_of_the_area_up_to_the_limit() -> None:
    normal, shares = torch.tensor([0.0, 1.0, 3.0]).double(), torch.tensor([1.0, 0.0, 1.0]).double()
    assert aupro(normal, shares, 2, fpr_limit=1.0).item() == pytest.approx(0.5 * 0.25 + 0.75 * 0.75)


def test_the_lowest_score_of_the_best_f1_is_found() -> None:
    f1, lowest = best_f1(torch.tensor([0.0, 0, 1, 4]), torch.tensor([2.0, 1, 0, 0]))
    assert (f1.item(), lowest) == (1.0, 1)


@pytest.mark.parametrize(
    ("change", "reason", "left"),
    [
        ({"gt_label": torch.zeros(4, dtype=torch.bool)}, "no anomalous image was tested", {"pixel_AUROC"}),
        ({"gt_mask": None}, "the test images have no masks", {"image_AUROC", "image_F1Score"}),
        ({"gt_mask": torch.zeros(4, 48, 48)}, "no mask has an anomalous pixel", {"image_AUROC", "image_F1Score"}),
        ({"gt_mask": torch.ones(4, 48, 48)}, "no pixel is normal", {"image_AUROC", "pixel_F1Score"}),
        ({"gt_label": torch.ones(4, dtype=torch.bool)}, "no normal image was tested", {"image_F1Score", "pixel_AUPRO"}),
        ({"pred_label": None}, "nothing was labeled", {"image_AUROC", "image_F1Max"}),
    ],
)
def test_what_is_not_defined_has_a_reason_instead_of_a_value(
    change: dict[str, Tensor | None], reason: str, left: set[str]
) -> None:
    data = batches()[1:2]
    data[0].gt_label = torch.tensor([False, True, True, True])
    for name, value in change.items():
        setattr(data[0], name, value)
    values, reasons = count(data).compute(METRICS)
    assert left <= values.keys()
    assert any(reason in each for each in reasons.values())
    assert values.keys() | reasons.keys() == set(METRICS)
    assert not values.keys() & reasons.keys()


def test_nothing_at_all_is_a_reason() -> None:
    values, reasons = CategoryScores().compute(METRICS)
    assert not values
    assert set(reasons.values()) == {"no image was tested"}


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
