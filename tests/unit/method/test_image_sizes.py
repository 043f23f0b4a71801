# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How finely the second memory may see, by what an image costs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anople_anomalib.backbones.timm_features import count_features, load_memory_backbone
from anople_anomalib.method import image_sizes
from anople_anomalib.method.building import with_image_size
from anople_anomalib.method.image_sizes import cost_of, finest_image_size, image_sides
from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.presets import resolve

MEMORY = resolve("offline")["memory"]
VIT = "vit_tiny_patch16_224"


@pytest.mark.parametrize(("name", "layers"), [("efficientnet-lite2", None), (VIT, (6, 12))])
def test_what_is_counted_is_what_is_computed(name: str, layers: tuple[int, ...] | None) -> None:
    backbone, counted = load_memory_backbone(name, (0.5,) * 3, (0.5,) * 3, layers, 96, "random"), None
    counted = count_features(name, layers, 96)
    assert (counted.patches, counted.width) == (backbone.grid[0] * backbone.grid[1], backbone.width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 96, 96))
    assert counted.operations == pytest.approx(counter.get_total_flops(), rel=0.1)  # attention has other kernels here
    assert counted == count_features(name, layers, 96)
    assert counted.megabytes > 4 * 3 * 96**2 / 1e6


def test_the_cost_of_a_search_is_that_of_its_matrix_product() -> None:
    memory = MEMORY | {"turns": "right_angles", "subspace": 0.0}  # eight copies, of seven a quarter
    features, cost = count_features("efficientnet-lite2", None, 320), cost_of(memory, 320, shots=2)
    assert cost.rows == 2 * 1600 * (1 + 7 / 4)
    bank, queries = ScaledMemoryBank(features.width, (40, 40)), torch.zeros(1, 1600, features.width)
    bank.build(torch.rand(1, 1600, features.width))
    with FlopCounterMode(display=False) as counter:
        bank(queries)
    searched = counter.get_total_flops() * cost.rows / 1600 * features.width / (features.width + 2)
    assert cost.operations - features.operations == pytest.approx(searched)
    assert cost.stride == 8


def test_tiles_hold_no_turned_shots_and_a_coreset_is_smaller() -> None:
    plain = MEMORY | {"subspace": 0.0}
    assert cost_of(plain, 320, 2, tiles=3).rows == 2 * 3 * 1600
    assert cost_of(plain | {"turns": "none", "coreset_ratio": 0.1}, 320, 2).rows == 320


def test_beside_a_subspace_there_are_no_more_rows_than_an_image_has_patches() -> None:
    assert cost_of(MEMORY, 320, 4).rows == 1600
    assert cost_of(MEMORY, 320, 4, tiles=3).rows == 3 * 1600
    assert cost_of(MEMORY | {"coreset_ratio": 0.1}, 320, 1).rows == 600


@pytest.mark.parametrize("shots", [1, 4, 100])
def test_the_finest_size_is_the_last_within_the_budget(shots: int) -> None:
    size, sides = finest_image_size(MEMORY, shots), image_sides(MEMORY)
    assert all(side % 32 == 0 and 224 <= side <= 1024 for side in sides)
    finer = sides[sides.index(size) + 1]
    assert cost_of(MEMORY, finer, shots).operations > image_sizes.OPERATIONS
    assert size == sides[0] or cost_of(MEMORY, size, shots).operations <= image_sizes.OPERATIONS


def test_megabytes_are_part_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    before = finest_image_size(MEMORY, 1)
    monkeypatch.setattr(image_sizes, "MEGABYTES", cost_of(MEMORY, before, 1).megabytes - 1)
    assert finest_image_size(MEMORY, 1) < before


def test_a_model_has_the_number_in_the_place_of_the_word() -> None:
    settings = resolve("offline", memory={"image_size": "auto"})
    assert with_image_size(settings, 1)["memory"]["image_size"] == finest_image_size(MEMORY, 1)
    assert settings["memory"]["image_size"] == "auto"
    assert with_image_size(resolve("offline"), 1) == resolve("offline")
    assert with_image_size(resolve("paper"), 1) == resolve("paper")
