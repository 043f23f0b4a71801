# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Whether the second memory turns its shots."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.backbones.clip_loading import CLIP_MEAN, CLIP_STD
from anople_anomalib.backbones.package_weights import LITE0
from anople_anomalib.backbones.timm_features import MemoryBackbone, load_memory_backbone
from anople_anomalib.method.second_memory import SecondMemory, TurnedCopies
from anople_anomalib.method.turns import STEP, patches_inside, turn_image, turns_of


@pytest.fixture(scope="module")
def backbone() -> MemoryBackbone:
    return load_memory_backbone(LITE0, CLIP_MEAN, CLIP_STD, image_size=96)


def stripes() -> torch.Tensor:
    """Stripes have a direction: turned by a right angle, they are another pattern."""
    return 2 * torch.sin(torch.arange(96) / 2).expand(1, 3, 96, 96)


def part(angle: int) -> torch.Tensor:
    """A bright bar with a dark end, which lies at an angle: turned, it is elsewhere and another way round."""
    image = torch.full((1, 3, 96, 96), -1.0)
    image[:, :, 42:54, 16:80] = 1.0
    image[:, :, 38:58, 16:28] = 0.2
    return turn_image(image, angle // STEP)


def test_the_shots_choose(backbone: MemoryBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, noise = SecondMemory(backbone, turns="auto"), torch.randn(1, 3, 96, 96)
    shots = TurnedCopies(memory, [noise, stripes()])
    ratios = torch.stack([memory.compare_turns(shots, number) for number in range(2)])
    assert ratios.shape == (2, 8)
    assert_close(ratios[:, 0], torch.zeros(2), atol=1e-3, rtol=0)  # the shot itself
    assert ratios[1, [1, 3]].min() > 2 * ratios[0, [1, 3]].max()  # a right angle, of stripes and of noise
    found = torch.tensor([[0.0, 3, 1, 3, 1, 1, 1, 1], [0.0, 3, 1, 3, 1, 9, 1, 9]])
    monkeypatch.setattr(memory, "compare_turns", lambda _shots, number: found[number])
    memory.choose_turns(TurnedCopies(memory, [torch.zeros(1, 3, 96, 96), torch.ones(1, 3, 96, 96)]))
    assert torch.nonzero(memory.turns).flatten().tolist() == [0, 12, 24, 36]  # means of both shots, at most 2


def test_shots_at_several_angles_are_turned_to_every_angle(backbone: MemoryBackbone) -> None:
    memory = SecondMemory(backbone, turns="auto")
    memory.choose_turns(TurnedCopies(memory, [part(0), part(60), part(210)]))
    assert torch.nonzero(memory.turns).flatten().tolist() == turns_of(30)
    assert torch.equal(memory.lying, memory.turns)
    memory.choose_turns(TurnedCopies(memory, [part(0), part(0)]))
    assert memory.copies < len(turns_of(30))


def test_a_single_shot_is_remembered_at_every_angle_but_known_at_none(backbone: MemoryBackbone) -> None:
    memory = SecondMemory(backbone, turns="auto")
    shots = TurnedCopies(memory, [part(15)])
    ratios = memory.compare_turns(shots, 0).tolist()
    memory.choose_turns(shots)
    assert torch.nonzero(memory.turns).flatten().tolist() == turns_of(30)
    known = [turn for turn, ratio in zip(turns_of("right_angles"), ratios, strict=True) if ratio <= 2]
    assert torch.nonzero(memory.lying).flatten().tolist() == known


def test_a_copy_is_encoded_once(backbone: MemoryBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, shots = SecondMemory(backbone, turns="auto"), [part(0), part(60), part(210)]
    seen: list[torch.Tensor] = []
    features = memory.features
    monkeypatch.setattr(memory, "features", lambda images: (seen.append(images), features(images))[1])
    rows = memory.encode_shots(shots)
    assert len(seen) == len(shots) * memory.copies == 36
    for shot, row in zip(shots, rows, strict=True):
        assert all(torch.equal(*pair) for pair in zip(row, memory.shot_features(shot), strict=True))


def test_unexplained_is_the_share_that_turns_leave(backbone: MemoryBackbone) -> None:
    memory, shots = SecondMemory(backbone), [part(0), part(90)]
    features = [memory.features(shot)[0] for shot in shots]
    turned = [torch.cat([memory.features(turn_image(shot, turn))[0] for turn in turns_of(90)]) for shot in shots]
    plain = sum(distance(features[1 - shot], features[shot], features[shot]) for shot in (0, 1))
    left = sum(distance(features[1 - shot], turned[shot], features[shot]) for shot in (0, 1))
    assert memory.unexplained(TurnedCopies(memory, shots), turns_of(90)) == pytest.approx(float(left / plain), abs=1e-3)


def distance(queries: torch.Tensor, rows: torch.Tensor, upright: torch.Tensor) -> torch.Tensor:
    """Mean squared distance to the nearest row, in units of the spread of the upright ones."""
    spread = (upright - upright.mean(dim=0)).square().sum(dim=1).mean()
    return torch.cdist(queries, rows).amin(dim=1).square().mean() / spread


@pytest.mark.parametrize(
    ("turns", "copies"), [("right_angles", 8), ("mirrored", 2), ("none", 1), ("auto", 1), (30, 12)]
)
def test_what_is_asked_for_is_in_the_memory(backbone: MemoryBackbone, turns: str | int, copies: int) -> None:
    memory, shot = SecondMemory(backbone, turns=turns), torch.randn(1, 3, 96, 96)
    features, inside = memory.shot_features(shot)
    assert features.shape[1] == copies * 144
    assert torch.equal(features[:, :144], memory.features(shot))
    assert inside is None or inside[:, :144].all()


def test_a_turned_copy_keeps_what_is_new_and_shows_no_edge(backbone: MemoryBackbone) -> None:
    memory, shot = SecondMemory(backbone, turns=30), torch.randn(1, 3, 96, 96)
    features, inside = memory.shot_features(shot)
    assert inside is not None
    for number, turn in enumerate(turns_of(30)[1:], start=1):
        kept, copy = inside[0].split(144)[number], features[0].split(144)[number]
        possible = patches_inside(turn, (12, 12))
        distances = torch.cdist(copy, features[0, :144]).amin(dim=1)
        wanted = sorted(distances[possible].tolist(), reverse=True)[:36]
        assert sorted(distances[kept].tolist(), reverse=True) == pytest.approx(wanted, rel=1e-3)
        assert not (kept & ~possible).any()
