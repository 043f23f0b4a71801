# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

from types import SimpleNamespace

import pytest
import torch
from anomalib.metrics import AUPRO, AUROC, F1Max
from torch import Tensor, nn

from anople_anomalib.metrics.pixel import PIXEL_FIELDS, PixelAUPRO, PixelAUROC, PixelF1Max, half_bins, half_values

PAIRS = {"AUROC": (PixelAUROC, AUROC), "AUPRO": (PixelAUPRO, AUPRO), "F1Max": (PixelF1Max, F1Max)}


def batches(number: int = 3, scale: float = 1.0, shift: float = 0.0) -> list[SimpleNamespace]:
    """Anomaly maps and masks; the first batch has no anomalies, the others one to four regions per image."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for regions in range(number):
        masks = torch.zeros(4, 48, 48, dtype=torch.bool)
        for mask in masks:
            for top, left in torch.randint(0, 40, (2 * regions, 2), generator=generator):
                mask[top : top + 8, left : left + 5] = True
        maps = nn.functional.avg_pool2d(torch.rand(4, 48, 48, generator=generator), 3, 1, 1) + 0.08 * masks
        result.append(SimpleNamespace(anomaly_map=scale * maps + shift, gt_mask=masks))
    return result


def evaluate(metric: nn.Module, data: list[SimpleNamespace]) -> float:
    for batch in data:
        metric.update(batch)
    return metric.compute().item()


def state_size(metric: nn.Module) -> int:
    """Number of values that a metric keeps."""
    states = [state for module in metric.modules() for state in getattr(module, "_defaults", {}) if state]
    values = [getattr(module, name) for module in metric.modules() for name in getattr(module, "_defaults", {})]
    assert states
    return sum(value.numel() if isinstance(value, Tensor) else sum(part.numel() for part in value) for value in values)


def test_bins_number_the_values_of_half_precision() -> None:
    values = half_values()
    assert torch.equal(half_bins(values), torch.arange(len(values)))
    assert (values[1:] > values[:-1]).all()
    assert values[half_bins(torch.tensor([0.0, -0.0, 0.5, -3.0]))].tolist() == [0.0, 0.0, 0.5, -3.0]
    assert half_bins(torch.tensor([1e30, -1e30, float("inf")])).tolist() == [len(values) - 1, 0, len(values) - 1]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 0.0), (-5.0, 2.0)])
def test_metrics_equal_anomalibs_on_rounded_scores(name: str, scale: float, shift: float) -> None:
    bounded, unbounded = PAIRS[name]
    data = batches(scale=scale, shift=shift)
    for batch in data:
        batch.anomaly_map = batch.anomaly_map.half().float()
    theirs = [SimpleNamespace(anomaly_map=batch.anomaly_map.sigmoid(), gt_mask=batch.gt_mask) for batch in data]
    # Anomalib's AUROC squashes scores outside of [0, 1], batch by batch; squashed before, they keep their ranks.
    expected = evaluate(unbounded(fields=PIXEL_FIELDS), theirs if name == "AUROC" else data)
    assert evaluate(bounded(fields=PIXEL_FIELDS), data) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_rounding_changes_little(name: str) -> None:
    bounded, unbounded = PAIRS[name]
    assert evaluate(bounded(fields=PIXEL_FIELDS), batches()) == pytest.approx(
        evaluate(unbounded(fields=PIXEL_FIELDS), batches()), abs=2e-3
    )


@pytest.mark.parametrize("name", PAIRS)
def test_memory_does_not_grow_with_the_test_set(name: str) -> None:
    metric = PAIRS[name][0](fields=PIXEL_FIELDS)
    metric.update(batches()[2])
    size = state_size(metric)
    for batch in batches():
        metric.update(batch)
    assert state_size(metric) == size


@pytest.mark.parametrize("name", PAIRS)
def test_reset_forgets(name: str) -> None:
    metric = PAIRS[name][0](fields=PIXEL_FIELDS)
    first = evaluate(metric, batches())
    metric.reset()
    assert evaluate(metric, batches()) == first


@pytest.mark.parametrize("name", PAIRS)
def test_perfect_maps_score_one(name: str) -> None:
    data = [SimpleNamespace(anomaly_map=batch.gt_mask.float(), gt_mask=batch.gt_mask) for batch in batches()]
    assert evaluate(PAIRS[name][0](fields=PIXEL_FIELDS), data) == pytest.approx(1.0, abs=1e-5)


def test_regions_count_alike_whatever_their_size() -> None:
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, :20, :20], mask[0, 30:32, 30:32] = True, True
    small_is_found = torch.zeros(1, 40, 40)
    small_is_found[0, 30:32, 30:32] = 1.0
    metric = PixelAUPRO(fpr_limit=0.3)
    metric.update(SimpleNamespace(anomaly_map=small_is_found, gt_mask=mask))
    # Half of the regions at once, the other half together with all normal pixels: 0.5 + 0.5 * FPR / 1, up to 0.3.
    assert metric.compute().item() == pytest.approx(0.5 + 0.5 * 0.15)


def test_only_normal_images_have_no_overlap() -> None:
    metric = PixelAUPRO()
    metric.update(batches()[0])
    assert metric.compute().item() == 0.0


def test_nothing_of_them_is_saved() -> None:
    for bounded, _ in PAIRS.values():
        assert not bounded(fields=PIXEL_FIELDS).state_dict()
