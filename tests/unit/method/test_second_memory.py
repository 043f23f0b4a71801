# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Whether the second memory turns its shots."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.backbones.clip_loading import CLIP_MEAN, CLIP_STD
from anople_anomalib.backbones.package_weights import LITE0
from anople_anomalib.backbones.timm_features import MemoryBackbone, load_memory_backbone
from anople_anomalib.method.second_memory import SecondMemory


@pytest.fixture(scope="module")
def backbone() -> MemoryBackbone:
    return load_memory_backbone(LITE0, CLIP_MEAN, CLIP_STD, image_size=96)


def stripes() -> torch.Tensor:
    """Stripes have a direction: turned by a right angle, they are another pattern."""
    return 2 * torch.sin(torch.arange(96) / 2).expand(1, 3, 96, 96)


def test_the_shots_choose(backbone: MemoryBackbone) -> None:
    memory, noise = SecondMemory(backbone, rotations=None), torch.randn(1, 3, 96, 96)
    ratios = memory.compare_turns(torch.cat([noise, stripes()]))
    assert ratios.shape == (2, 8)
    assert_close(ratios[:, 0], torch.zeros(2), atol=1e-3, rtol=0)  # the shot itself
    assert ratios[1, [1, 3]].min() > 2 * ratios[0, [1, 3]].max()  # a right angle, of stripes and of noise
    memory.choose_turns(torch.tensor([[0.0, 3, 1, 3, 1, 1, 1, 1], [0.0, 3, 1, 3, 1, 9, 1, 9]]))
    assert memory.turns.tolist() == [True, False, True, False, True, False, True, False]
    assert memory.shot_features(noise).shape[1] == 4 * 144
    assert torch.equal(memory.shot_features(noise)[:, :144], memory.features(noise))


@pytest.mark.parametrize(("rotations", "turns"), [(True, 8), (False, 1), (None, 1)])
def test_what_is_asked_for_is_in_the_memory(backbone: MemoryBackbone, rotations: bool | None, turns: int) -> None:
    memory = SecondMemory(backbone, rotations=rotations)
    assert memory.shot_features(torch.randn(1, 3, 96, 96)).shape[1] == turns * 144


def test_a_turned_shot_is_in_a_turned_memory(backbone: MemoryBackbone) -> None:
    memory, shot = SecondMemory(backbone, rotations=True), torch.randn(1, 3, 96, 96)
    memory.memory_bank.build(memory.shot_features(shot))
    distances = memory.memory_bank(memory.features(shot.flip(-1).rot90(1, (-2, -1))))
    assert_close(distances, torch.zeros_like(distances), atol=1e-4, rtol=0)
