# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The memory that knows in which directions normal patches differ."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from anople_anomalib.backbones.clip_loading import CLIP_MEAN, CLIP_STD
from anople_anomalib.backbones.package_weights import LITE0
from anople_anomalib.backbones.timm_features import load_memory_backbone
from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.method.second_memory import SecondMemory
from anople_anomalib.method.state_checks import check_weights
from anople_anomalib.method.subspace_memory_bank import SubspaceMemoryBank

GRID, WIDTH = (6, 8), 5
PLACES = 48


def shots(number: int) -> torch.Tensor:
    """Patches that differ much in two directions and little in the other three."""
    return torch.randn(number, PLACES, WIDTH) * torch.tensor([3.0, 0.1, 2.0, 0.2, 0.1]) + 1


def built(share: float = 0.9, **settings: float | bool) -> SubspaceMemoryBank:
    bank = SubspaceMemoryBank(WIDTH, GRID, share=share, **settings)
    bank.build(shots(1))
    return bank


def test_the_distance_is_that_of_its_definition() -> None:
    features, queries = shots(1), torch.randn(2, PLACES, WIDTH)
    bank = SubspaceMemoryBank(WIDTH, GRID, position_weight=2.0, share=0.9)
    bank.build(features)
    rows = features.flatten(0, 1).double().numpy()
    pca = PCA(0.9).fit(rows)  # as many components as explain nine tenths of the variance
    assert pca.n_components_ == 2
    v = rows.var(axis=0).sum()
    places = np.sqrt(2.0 * v) * bank.places.double().numpy()

    def coordinates(patches: torch.Tensor) -> np.ndarray:
        """Coordinates in the subspace and the distance to it, (..., 3)."""
        flat = patches.flatten(0, -2).double().numpy()
        inside = pca.transform(flat)
        residual = np.linalg.norm(flat - pca.inverse_transform(inside), axis=1, keepdims=True)
        return np.concatenate([inside, residual], axis=1).reshape(*patches.shape[:-1], 3)

    def elsewhere(image: np.ndarray) -> np.ndarray:
        """Squared distances to the nearest other of every third: in a grid of 6 x 8 all others are elsewhere."""
        squares = ((image[:, None] - image[None]) ** 2).sum(axis=-1)
        return np.where(np.eye(len(image)), np.inf, squares)[:, ::3].min(axis=1)

    known = np.concatenate([np.concatenate([shot, places], axis=1) for shot in coordinates(features)])
    repetition = np.mean([elsewhere(shot) for shot in coordinates(features)])
    for found, image in zip(bank(queries), coordinates(queries), strict=True):
        asked = np.concatenate([image, places], axis=1)
        near = ((asked[:, None] - known[None]) ** 2).sum(axis=-1).min(axis=1)
        own = np.maximum(elsewhere(image), repetition)
        parts = [np.minimum(near / (4 * v), 1), image[:, -1] ** 2 / (4 * v), np.minimum(own / (4 * v), 1)]
        assert_close(
            found.double(), torch.from_numpy(np.cbrt(np.prod(parts, axis=0))).clamp(max=1), rtol=1e-3, atol=1e-6
        )


def test_what_the_image_repeats_counts_less_and_an_image_that_is_all_alike_is_not_normal() -> None:
    bank = SubspaceMemoryBank(WIDTH, (6, 6), share=0.9)
    images = torch.randn(4, 36, WIDTH) * torch.tensor([3.0, 0.1, 2.0, 0.2, 0.1])
    bank.build(images)
    odd = images[:1].clone()
    odd[0, 0, 1] += 6.0
    once = float(bank(odd)[0, 0])
    odd[0, 33] = odd[0, 0]
    assert float(bank(odd)[0, 0]) < once
    blank = torch.full((1, 36, WIDTH), 5.0)  # of a covered lens, say
    assert float(bank(blank).amin()) > float(bank(images + 0.1 * torch.randn_like(images)).amax())


def test_what_normal_patches_do_counts_less() -> None:
    bank = built(share=0.9)
    center = bank.center.repeat(2, PLACES, 1)
    center[0, :, 0] += 12.0  # farther than any row, along the direction in which they differ
    center[1, :, 1] += 12.0  # as far, off it
    along, off = bank(center).amax(dim=1)
    assert 20 * along < off
    assert off <= 1


def test_what_is_in_the_bank_is_normal() -> None:
    bank, own = SubspaceMemoryBank(WIDTH, GRID, share=0.5), shots(1)
    bank.build(own)
    assert bank(own).max() == 0
    bank.extend(new := 3 + torch.randn(3, PLACES, WIDTH))
    assert bank(new).max() == 0


def test_of_more_patches_than_an_image_has_so_many_are_kept() -> None:
    features, inside = shots(4), torch.rand(4, PLACES) < 0.7
    first, second = (SubspaceMemoryBank(WIDTH, GRID, per_category=True, share=0.9) for _ in range(2))
    for bank in (first, second):
        bank.build(features, [0, 1, 0, 0], inside)
    assert torch.equal(first.features, second.features)
    assert first.lengths is not None
    assert first.lengths.tolist() == [PLACES, int(inside[1].sum())]
    for number, owned in ((0, [0, 2, 3]), (1, [1])):
        kept = {tuple(row) for row in first.features[number * PLACES :][:PLACES, :WIDTH].tolist()}
        assert kept <= {tuple(row) for row in features[owned][inside[owned]].tolist()}
        assert len(kept) == first.lengths[number]


def test_an_extended_bank_has_the_subspace_of_the_first_rows() -> None:
    bank, queries = built(), torch.randn(2, PLACES, WIDTH)
    before, farther = bank.away(queries), bank(queries)
    bank.extend(queries[:1])
    assert torch.equal(bank.away(queries), before)
    assert (bank(queries) <= farther).all()


def test_the_subspace_is_that_of_all_rows_and_the_odd_ones_are_kept() -> None:
    features = shots(3)
    features[1, 7] += 40  # one patch of three shots
    bank = SubspaceMemoryBank(WIDTH, GRID, share=0.9)
    bank.build(features)
    rows = features.flatten(0, 1)
    assert_close(bank.center, rows.mean(dim=0))
    pca = PCA(0.9).fit(rows.double().numpy())
    assert len(bank.inside) == pca.n_components_
    assert (bank.features[:, :WIDTH] == features[1, 7]).all(dim=1).any()


def test_a_twin_is_built_anew_without_a_change_of_the_bank() -> None:
    bank, queries = built(), torch.randn(1, PLACES, WIDTH)
    before, twin = bank(queries), bank.twin()
    twin.build(torch.randn(1, PLACES, WIDTH))
    assert torch.equal(bank(queries), before)
    earlier = bank.twin()
    bank.extend(torch.randn(1, PLACES, WIDTH))
    assert not torch.equal(bank(queries), before)
    bank.restore(earlier)
    assert torch.equal(bank(queries), before)


def test_saved_weights_restore_it_into_an_empty_bank() -> None:
    bank, other, queries = built(), SubspaceMemoryBank(WIDTH, GRID), torch.randn(1, PLACES, WIDTH)
    holder, empty = torch.nn.ModuleDict({"memory_bank": bank}), torch.nn.ModuleDict({"memory_bank": other})
    check_weights(empty, holder.state_dict())
    empty.load_state_dict(holder.state_dict())
    assert torch.equal(other(queries), bank(queries))


@pytest.mark.parametrize("grid", [(2, 3), (3, 6)])
def test_fewer_rows_than_directions(grid: tuple[int, int]) -> None:
    bank, number = SubspaceMemoryBank(64, grid, share=0.9), grid[0] * grid[1]
    bank.build(torch.randn(1, number, 64))
    assert len(bank.outside) > 64 - number
    assert bank(torch.randn(1, number, 64)).isfinite().all()


def test_equal_patches_and_half_precision() -> None:
    bank = SubspaceMemoryBank(WIDTH, GRID)
    bank.build(torch.ones(1, PLACES, WIDTH))
    assert bank(torch.ones(1, PLACES, WIDTH).half()).dtype == torch.float16
    assert bank(torch.ones(1, PLACES, WIDTH)).max() == 0
    assert bank(torch.zeros(1, PLACES, WIDTH)).min() == 1


def test_categories_are_kept_apart() -> None:
    features = torch.cat([shots(1), shots(1) - 6])
    bank = SubspaceMemoryBank(WIDTH, GRID, per_category=True, share=0.9)
    bank.build(features, [0, 1])
    assert bank(features).max() < 1e-3
    mixed = features.clone()
    mixed[1, 3] = features[0, 3]  # normal, but of the other category
    assert bank(mixed)[1].argmax() == 3


def test_the_second_memory_has_it_where_it_is_asked_for() -> None:
    backbone = load_memory_backbone(LITE0, CLIP_MEAN, CLIP_STD, image_size=96)
    assert isinstance(SecondMemory(backbone, subspace=0.9).memory_bank, SubspaceMemoryBank)
    assert type(SecondMemory(backbone).memory_bank) is ScaledMemoryBank
