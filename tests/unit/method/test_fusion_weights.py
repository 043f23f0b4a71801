# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Parts that earn their weights on simulated anomalies."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.method.fusion import PaperFusion, WeightedFusion, Weights, fuse
from anople_anomalib.method.fusion_weights import Trial, choose_weights, damage
from anople_anomalib.training.held_out import view_of

SHAPE = (12, 60, 60)


def trial(**parts: torch.Tensor | None) -> Trial:
    """Six normal images, six with a damaged square; parts that see nothing unless given."""
    masks = torch.zeros(SHAPE)
    masks[6:, 20:30, 20:30] = 1
    blind = {name: torch.rand(SHAPE) for name in ("decoder_map", "first_map", "second_map")}
    return Trial(**{"probability": torch.rand(12), "masks": masks, **blind, **parts})


def seeing() -> torch.Tensor:
    return 0.8 * trial().masks + 0.2 * torch.rand(SHAPE)


def test_a_part_that_sees_nothing_is_dropped() -> None:
    weights, gain = choose_weights(trial(second_map=seeing()), WeightedFusion())
    assert weights == Weights(0.0, 0.0, 0.0)
    assert gain == 0


def test_a_part_that_sees_what_others_miss_gets_a_weight() -> None:
    weights, gain = choose_weights(trial(decoder_map=seeing()), WeightedFusion())
    assert weights.decoder_power == 0.25
    assert 0.1 < gain < 1
    weights, gain = choose_weights(trial(first_map=seeing()), WeightedFusion())
    assert weights.clip_share == pytest.approx(1 / 3)
    assert gain == 0  # of prompts and decoder
    assert choose_weights(trial(first_map=seeing(), second_map=None), WeightedFusion())[0].decoder_power == 0.0


def test_the_fusion_takes_the_weights() -> None:
    fusion = WeightedFusion()
    assert not fusion.memory_alone
    weights, _ = choose_weights(trial(second_map=seeing()), fusion)
    assert tuple(fusion.weights.tolist()) == weights
    assert fusion.memory_alone


def test_a_weighted_fusion_is_its_formula() -> None:
    fusion = WeightedFusion(top_share=0.5)
    fusion.set_weights(Weights(0.25, 0.5, 0.25))
    first, second, decoder, probability = (torch.rand(2, 2, 2) for _ in range(4))
    probability = probability[:, 0, 0]
    memory = fusion.memory(first, second)
    assert_close(memory, 0.25 * first + 0.75 * second)
    fused = fusion.map(decoder, memory)
    assert_close(fused, memory * decoder.sqrt())
    expected = [image.flatten().sort().values[2:].mean() for image in fused]
    assert_close(fusion.score(probability, fused), torch.stack(expected) * probability**0.25)


def test_papers_fusion_is_equations_12_and_14() -> None:
    decoder, memory, probability = torch.rand(2, 4, 4), torch.rand(2, 4, 4), torch.rand(2)
    fused = PaperFusion().map(decoder, memory)
    assert_close(fused, 1 / (1 / decoder + 1 / memory))
    assert torch.equal(PaperFusion().score(probability, fused), fuse(probability, fused.amax(dim=(1, 2))))


def test_trial_images_are_the_same_for_a_seed_and_damaged_within_their_mask() -> None:
    image = torch.rand(1, 3, 50, 60)
    for seed in range(8):
        generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
        views = [view_of(image, (64, 64), range(8), generator) for generator in generators]
        assert torch.equal(*views)
        damaged, mask = damage(views[0], generators[0])
        assert damaged.shape == (1, 3, 64, 64)
        assert mask.shape == (1, 64, 64)
        outside = (damaged - views[0]).abs().amax(dim=1)[mask == 0]
        assert outside.numel() == 0 or outside.max() == 0
        assert 0 <= damaged.min() <= damaged.max() <= 1
