# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Harmonic fusion, equations (12) and (14)."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.method.fusion import PaperFusion, fuse

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def test_harmonic_fusion_of_every_pixel() -> None:
    """Equation (12)."""
    first, second = torch.rand(2, 3, 4).clamp_min(0.01), torch.rand(2, 3, 4).clamp_min(0.01)
    expected = [1.0 / ((1.0 / a) + (1.0 / b)) for a, b in zip(first.flatten(), second.flatten(), strict=True)]
    assert_close(fuse(first, second).flatten(), torch.stack(expected))


def test_image_score() -> None:
    """Equation (14)."""
    probability, anomaly_map = torch.rand(3).clamp_min(0.01), torch.rand(3, 4, 5).clamp_min(0.01)
    expected = [1.0 / ((1.0 / p) + (1.0 / m.max())) for p, m in zip(probability, anomaly_map, strict=True)]
    assert_close(PaperFusion().score(probability, anomaly_map), torch.stack(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.5), (0.5, 0.5, 0.25), (1e-3, 1e-3, 5e-4)],
)
def test_edges_are_finite(dtype: torch.dtype, first: float, second: float, expected: float) -> None:
    fused = fuse(torch.tensor(first, dtype=dtype), torch.tensor(second, dtype=dtype))
    assert fused.dtype == dtype
    assert_close(fused, torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_smallest_values_are_finite_and_in_range(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    values = torch.tensor([0.0, tiny / 4, tiny, 1e-4, 0.5, 1.0], dtype=dtype)
    fused = fuse(values[:, None], values[None])
    assert fused.isfinite().all()
    assert (fused >= 0).all()
    assert (fused <= torch.minimum(values[:, None], values[None])).all()
    assert_close(fused, fused.T)


def test_small_half_precision_values_do_not_vanish() -> None:
    small = torch.tensor([2e-4, 4e-4], dtype=torch.float16)
    assert_close(fuse(small, small).float(), torch.tensor([1e-4, 2e-4]), rtol=1e-2, atol=0)


def test_gradient_is_finite_at_zero() -> None:
    first, second = torch.zeros(2, requires_grad=True), torch.tensor([0.0, 1.0], requires_grad=True)
    fuse(first, second).sum().backward()
    assert first.grad.isfinite().all()
    assert second.grad.isfinite().all()
