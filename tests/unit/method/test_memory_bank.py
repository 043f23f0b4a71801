# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The memory bank, equation (13)."""

from typing import Any

import numpy as np
import pytest
import torch
from anomalib.models.components import KCenterGreedy
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from anople_anomalib.method import memory_bank
from anople_anomalib.method.coreset import choose_coreset
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.method.subspace_memory_bank import SubspaceMemoryBank

D = 6


class LargestProduct(TorchFunctionMode):
    """Records the size of the largest matmul."""

    size = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation."""
        del types
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in {"matmul", "__matmul__"}:
            self.size = max(self.size, result.numel())
        return result


class LargestResult(TorchDispatchMode):
    """Records the size of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation."""
        del types
        result = function(*args, **(kwargs or {}))
        known = [each.data_ptr() for each in args if isinstance(each, torch.Tensor)]  # a view is nothing new
        if isinstance(result, torch.Tensor) and result.data_ptr() not in known:
            self.numel = max(self.numel, result.numel())
        return result


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


@pytest.mark.parametrize(("rows", "queries"), [(1, 100), (4, 5), (18, 1), (100, 12)])
def test_no_more_than_a_block_of_distances_exists_at_a_time(
    monkeypatch: pytest.MonkeyPatch, rows: int, queries: int
) -> None:
    bank, images = filled(torch.randn(2, 9, D)), torch.randn(3, 4, D)
    whole = bank(images)
    monkeypatch.setattr(memory_bank, "_ROWS", rows)
    monkeypatch.setattr(memory_bank, "_QUERIES", queries)
    with LargestProduct() as largest:
        assert_close(bank(images), whole)
    assert 0 < largest.size <= min(rows, 18) * min(queries, 12)


@pytest.mark.parametrize("kind", [ScaledMemoryBank, SubspaceMemoryBank])
def test_a_query_of_the_second_memory_is_flat_in_memory(
    monkeypatch: pytest.MonkeyPatch, kind: type[ScaledMemoryBank]
) -> None:
    """Rows by queries never exist at once: nothing is larger than the bank, the queries or a block."""
    monkeypatch.setattr(memory_bank, "_ROWS", 50)
    monkeypatch.setattr(memory_bank, "_QUERIES", 40)
    bank, images = kind(D, (4, 5)), torch.randn(10, 20, D)
    bank.build(torch.randn(100, 20, D))
    with torch.no_grad(), LargestResult() as largest:
        bank(images)
    assert largest.numel <= max(2000 * (D + 2), 200 * (D + 2), 40 * 50) < 2000 * 200


def test_a_coreset_covers_the_features() -> None:
    """The three clusters of nine features each have one in a bank of a ninth."""
    centers = torch.eye(D)[:3].repeat_interleave(9, dim=0)
    features = centers + 0.01 * torch.randn(27, D)
    bank = MemoryBank(D, coreset_sampling_ratio=1 / 9)
    bank.build(features.view(3, 9, D))
    assert sorted((bank.features @ torch.eye(D)[:, :3]).argmax(dim=1).tolist()) == [0, 1, 2]
    chosen = (bank.features[:, None] == F.normalize(features, dim=-1)).all(dim=-1).any(dim=1)
    assert chosen.all()


def test_a_coreset_is_drawn_alike_in_every_process_and_disturbs_no_generator() -> None:
    features, banks = torch.randn(40, D), [MemoryBank(D, 0.25) for _ in range(2)]
    state = torch.get_rng_state()
    for bank in banks:
        bank.build(features)
        torch.testing.assert_close(torch.get_rng_state(), state)
        np.random.seed()  # noqa: NPY002  # another process has another global generator
    assert len(banks[0]) == 10
    assert torch.equal(banks[0].features, banks[1].features)
    banks[0].extend(torch.randn(20, D))
    assert len(banks[0]) == 10 + 5


def test_a_coreset_is_that_of_anomalib_without_copies_of_all_features() -> None:
    """By the sampler of PatchCore, which makes a copy of all features per center; threads keep it from being freed."""
    features = torch.randn(200, 2 * D)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = KCenterGreedy(features.unsqueeze(1), 0.2).select_coreset_idxs()
    with LargestResult() as largest:
        chosen = choose_coreset(features, 0.2)
    assert_close(chosen, features[expected])
    assert 0 < largest.numel < features.numel() / 2


def test_a_coreset_keeps_at_least_one_feature() -> None:
    for number in (1, 2, 49):
        bank = MemoryBank(D, coreset_sampling_ratio=1e-6)
        bank.build(torch.randn(number, D))
        assert len(bank) == 1


@pytest.mark.parametrize(("rows", "queries"), [(1, 100), (4, 5), (18, 1), (100, 12)])
def test_nearest_names_the_row_at_the_distance(monkeypatch: pytest.MonkeyPatch, rows: int, queries: int) -> None:
    monkeypatch.setattr(memory_bank, "_ROWS", rows)
    monkeypatch.setattr(memory_bank, "_QUERIES", queries)
    bank, images = filled(torch.randn(2, 9, D)), torch.randn(3, 4, D)
    nearest = bank.nearest(images)
    assert nearest.shape == (3, 4)
    cosines = (bank.features[nearest] * F.normalize(images, dim=-1)).sum(dim=-1)
    assert_close(0.5 * (1 - cosines), bank(images))
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


def test_a_scaled_distance_is_that_of_its_definition() -> None:
    bank = ScaledMemoryBank(5, (2, 3), position_weight=2.0)
    shots, queries = torch.randn(2, 6, 5), torch.randn(1, 6, 5)
    bank.build(shots)
    rows = shots.flatten(0, 1)
    v = sum((row - rows.mean(dim=0)).square().sum() for row in rows) / len(rows)
    places = [torch.tensor([i / 2, j / 3]) for i in range(2) for j in range(3)]
    for query, place, distance in zip(queries[0], places, bank(queries)[0], strict=True):
        d2 = min(
            (query - row).square().sum() + 2.0 * v * (place - places[number % 6]).square().sum()
            for number, row in enumerate(rows)
        )
        assert_close(distance, (d2 / (4 * v)).clamp(max=1))


def test_an_extended_bank_keeps_its_scale_and_distances_only_shrink() -> None:
    bank = ScaledMemoryBank(5, (2, 3), position_weight=1.0)
    bank.build(torch.randn(1, 6, 5))
    variance, queries = bank.variance.clone(), torch.randn(3, 6, 5)
    before = bank(queries)
    bank.extend(10 * torch.randn(2, 6, 5))
    assert torch.equal(bank.variance, variance)
    assert (bank(queries) <= before + 1e-6).all()
    assert len(bank) == 18


def two_categories(bank: MemoryBank) -> tuple[MemoryBank, list[MemoryBank], torch.Tensor]:
    """A bank of two shots of one category and one of another, a bank of each alone, and the shots."""
    shots = torch.randn(3, 6, 5) + torch.tensor([4.0, 0, 0, 0, 0])
    shots[1] *= torch.tensor([-1.0, 1, 1, 1, 1])  # the second shot is of the second category
    bank.build(shots, [0, 1, 0])
    alone = [MemoryBank(5), MemoryBank(5)]
    if isinstance(bank, ScaledMemoryBank):
        alone = [ScaledMemoryBank(5, (2, 3), position_weight=1.0) for _ in range(2)]
    for single, own in zip(alone, (shots[[0, 2]], shots[1:2]), strict=True):
        single.build(shots)  # whose spread is that of all shots
        single.features = single._rows(own)
    return bank, alone, shots


PER_CATEGORY = {
    "cosine": lambda: MemoryBank(5, per_category=True),
    "scaled": lambda: ScaledMemoryBank(5, (2, 3), position_weight=1.0, per_category=True),
}


@pytest.mark.parametrize("kind", PER_CATEGORY)
def test_an_image_is_compared_with_its_own_category_alone(kind: str) -> None:
    bank, alone, shots = two_categories(PER_CATEGORY[kind]())
    queries = shots + 0.1 * torch.randn_like(shots)
    queries[0, 2] = shots[1, 2]  # a patch of the other category is an anomaly, and not looked up there
    expected = torch.cat([alone[category](queries[[index]]) for index, category in enumerate((0, 1, 0))])
    assert_close(bank(queries), expected)
    assert bank(queries)[0].argmax() == 2
    pooled = MemoryBank(5)
    pooled.build(shots)
    assert pooled(queries)[0, 2] < 1e-6


def test_the_nearest_patch_is_of_the_same_category() -> None:
    bank, _, shots = two_categories(MemoryBank(5, per_category=True))
    rows = bank.nearest(shots)
    assert (rows[[0, 2]] < 12).all()
    assert ((rows[1] >= 12) & (rows[1] < 24)).all()
    assert_close(bank(shots), torch.zeros(3, 6), atol=1e-5, rtol=0)
    assert_close(bank.features[rows], F.normalize(shots, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PER_CATEGORY)
def test_one_category_grows_and_the_other_stays(kind: str) -> None:
    bank, alone, shots = two_categories(PER_CATEGORY[kind]())
    new = torch.randn(3, 6, 5) * torch.tensor([-1.0, 1, 1, 1, 1])
    for images in new.split(1):
        bank.extend(images, category=1)
        alone[1].extend(images)
    queries = torch.cat([shots, new])
    queries = queries + 0.1 * torch.randn_like(queries)
    nearest = torch.stack([single(queries) for single in alone])
    expected = nearest[nearest.mean(dim=2).argmin(dim=0), torch.arange(6)]
    assert_close(bank(queries), expected)
    assert bank.lengths.tolist() == [12, 24]


def test_a_bank_of_one_category_is_the_plain_bank() -> None:
    features, queries = torch.randn(2, 9, D), torch.randn(3, 4, D)
    bank = MemoryBank(D, per_category=True)
    for categories in (None, [0, 0]):
        bank.build(features, categories)
        assert torch.equal(bank(queries), filled(features)(queries))
    plain = filled(features)
    plain.build(features, [0, 1])  # which it does not keep apart
    assert torch.equal(plain.features, filled(features).features)
    assert "lengths" not in plain.state_dict()


def test_the_coreset_is_one_of_each_category() -> None:
    centers = torch.eye(D)[:2].repeat_interleave(20, dim=0).view(2, 20, D)
    bank = MemoryBank(D, coreset_sampling_ratio=0.1, per_category=True)
    bank.build(centers + 0.01 * torch.randn(2, 20, D), [0, 1])
    assert bank.lengths.tolist() == [2, 2]
    assert (bank.features[:2] @ centers[0, 0]).min() > 0.9
    assert (bank.features[2:] @ centers[1, 0]).min() > 0.9


def test_a_bank_per_category_is_restored_from_its_state() -> None:
    bank, _, shots = two_categories(PER_CATEGORY["cosine"]())
    other = MemoryBank(5, per_category=True)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other(shots), bank(shots))
