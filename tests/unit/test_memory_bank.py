# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The memory bank, equation (13)."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib import memory_bank
from anople_anomalib.memory_bank import MemoryBank

D = 6


def filled(features: torch.Tensor) -> MemoryBank:
    bank = MemoryBank(features.shape[-1])
    bank.build(features)
    return bank


def test_distance_to_the_nearest_feature() -> None:
    """Equation (13): min over r of (1 - <F_ij, r>) / 2."""
    normal, queries = torch.randn(2, 9, D), torch.randn(3, 4, D)
    expected = torch.empty(3, 4)
    for image in range(3):
        for patch in range(4):
            f = queries[image, patch] / queries[image, patch].norm()
            expected[image, patch] = min(0.5 * (1 - f @ (r / r.norm())) for r in normal.flatten(0, 1))
    assert_close(filled(normal)(queries), expected)


def test_query_in_the_bank_is_at_distance_zero_and_its_opposite_at_one() -> None:
    normal = torch.randn(1, 5, D)
    bank = filled(normal)
    assert_close(bank(3 * normal), torch.zeros(1, 5), atol=1e-6, rtol=0)
    assert_close(filled(normal[:, :1])(-normal[:, :1]), torch.ones(1, 1), atol=1e-6, rtol=0)
    assert bank(normal).min() >= 0


@pytest.mark.parametrize("chunk", [1, 4, 18, 100])
def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    bank, queries = filled(torch.randn(2, 9, D)), torch.randn(3, 4, D)
    whole = bank(queries)
    monkeypatch.setattr(memory_bank, "_CHUNK", chunk)
    assert_close(bank(queries), whole)


@pytest.mark.parametrize("chunk", [1, 4, 18, 100])
def test_nearest_names_the_row_at_the_distance(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(memory_bank, "_CHUNK", chunk)
    bank, queries = filled(torch.randn(2, 9, D)), torch.randn(3, 4, D)
    rows = bank.nearest(queries)
    assert rows.shape == (3, 4)
    cosines = (bank.features[rows] * torch.nn.functional.normalize(queries, dim=-1)).sum(dim=-1)
    assert_close(0.5 * (1 - cosines), bank(queries))
    assert torch.equal(bank.nearest(2 * bank.features[None]), torch.arange(18)[None])


def test_extending_equals_building_at_once() -> None:
    first, second = torch.randn(2, 4, D), torch.randn(1, 4, D)
    bank = filled(first)
    bank.extend(second)
    assert len(bank) == 12
    assert_close(bank.features, filled(torch.cat([first, second])).features)


def test_extending_an_empty_bank_and_building_anew() -> None:
    first, second = torch.randn(2, 4, D), torch.randn(1, 4, D)
    bank = MemoryBank(D)
    bank.extend(first)
    assert_close(bank.features, filled(first).features)
    bank.build(second)
    assert_close(bank.features, filled(second).features)


def test_empty_bank_is_refused() -> None:
    with pytest.raises(RuntimeError, match="memory bank is empty: train the model"):
        MemoryBank(D)(torch.randn(1, 2, D))


def test_an_empty_bank_loads_a_full_one() -> None:
    bank, queries = filled(torch.randn(2, 4, D)), torch.randn(1, 3, D)
    other = MemoryBank(D)
    other.load_state_dict(bank.state_dict(), strict=True)
    assert torch.equal(other(queries), bank(queries))


def test_no_gradient_is_kept_of_the_normal_images() -> None:
    assert not filled(torch.randn(1, 4, D, requires_grad=True)).features.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    normal, queries = torch.randn(2, 4, D), torch.randn(1, 3, D)
    bank = filled(normal.to(dtype))
    assert bank.features.dtype == torch.float32
    distances = bank(queries.to(dtype))
    assert distances.dtype == dtype
    assert_close(distances.float(), filled(normal)(queries), atol=0.02, rtol=0)
    assert 0 <= bank(normal.to(dtype)).min() <= bank(normal.to(dtype)).max() < 0.02
