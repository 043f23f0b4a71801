# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A second memory of the normal shots, of features that have seen photographs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torchvision.transforms.v2 import functional as tv_functional

from anople_anomalib.config import AUTO
from anople_anomalib.utils.batches import joined
from anople_anomalib.utils.transforms import resize

from .memory_bank import BankFeatures
from .scaled_memory_bank import ScaledMemoryBank
from .turns import NUM_TURNS, patches_inside, turn_image, turns_of

if TYPE_CHECKING:
    from anople_anomalib.backbones.timm_features import MemoryBackbone

_MOVES = ((5, 1.05, (4, -3)), (-5, 1.08, (-4, 3)), (3, 1.03, (2, 4)), (-8, 1.1, (-3, -4)))  # angle, scale, shift
_LIKE = 2.0  # a turned copy is like other normal parts if it is at most so much farther than moved ones
ANY_ANGLE = 30
"""Degrees between the copies of parts that lie at any angle."""
_EXPLAINED = 0.7  # parts lie at any angle if turns of one shot take away the rest of the distance to another
_COMPARED = 4  # shots whose turns are compared with each other: all of them would take the square of their number
NOVEL = 0.25
"""Share of a turned copy's patches that the bank keeps: those farthest from the upright shot."""


def larger_size(image_size: tuple[int, int], second: "SecondMemory | None") -> tuple[int, int]:
    """Return height and width of images from which either backbone can be served: those of the one that sees more.

    Args:
        image_size: Height and width of the images that CLIP sees.
        second: The second memory, if there is one.
    """
    if second is None:
        return image_size
    height, width = map(max, zip(image_size, second.backbone.image_size, strict=True))
    return height, width


class SecondMemory(nn.Module):
    """A frozen backbone of its own and the bank of its patch features, beside the memory of the prompted CLIP.

    Args:
        backbone: The backbone.
        coreset_sampling_ratio: Share of the patch features that the bank keeps.
        position_weight: How much farther a patch counts at another place, see :class:`.ScaledMemoryBank`.
        turns: Copies of the shots that are in the bank, see :func:`.turns.turns_of`, or ``"auto"`` for those that the
            shots themselves choose, see :meth:`choose_turns`.
        per_category: Whether the bank keeps categories apart.
        subspace: Share of the variance of its rows that the subspace of the normal patches explains, see
            :class:`.subspace_memory_bank.SubspaceMemoryBank`; 0 for none.
    """

    def __init__(
        self,
        backbone: "MemoryBackbone",
        coreset_sampling_ratio: float = 1.0,
        position_weight: float = 0.0,
        turns: str | int = "none",
        per_category: bool = False,
        subspace: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.asked_turns, self.subspace = backbone, turns, subspace
        # those in the bank, saved: it may grow later
        self.register_buffer("turns", _flags([0] if turns == AUTO else turns_of(turns)))
        self.register_buffer("lying", self.turns.clone())  # those in which other normal parts are known to lie
        self.turns: torch.Tensor
        self.lying: torch.Tensor
        bank = (backbone.width, backbone.grid, coreset_sampling_ratio, position_weight, per_category)
        self.memory_bank = ScaledMemoryBank(*bank)
        if subspace:
            from .subspace_memory_bank import SubspaceMemoryBank

            self.memory_bank = SubspaceMemoryBank(*bank, share=subspace)
        self.register_buffer("fingerprint", torch.tensor(list(backbone.fingerprint), dtype=torch.uint8))
        self.fingerprint: torch.Tensor

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Encode query images.

        Args:
            images: Images normalized for CLIP, shape ``(B, 3, H, W)``.

        Returns:
            Patch features of shape ``(B, n, width)``.
        """
        return self.backbone(images)

    def shot_features(self, images: torch.Tensor) -> BankFeatures:
        """Encode normal images for the bank, in all :attr:`copies`.

        Of a turned copy the bank keeps the quarter of the patches that are farthest from the upright image, as much of
        it as shows nothing of extended edges: the others tell nothing new, a plain background least of all.

        Args:
            images: As for :meth:`features`.

        Returns:
            Patch features of shape ``(B, t n, width)`` for t copies, and which of them belong in the bank.
        """
        return joined([self._all_copies(TurnedCopies(self, [image]), 0) for image in images.split(1)])

    def encode_shots(self, images: Sequence[torch.Tensor]) -> list[BankFeatures]:
        """Choose the turns by :meth:`choose_turns` and encode the shots by :meth:`shot_features`, each copy once.

        Args:
            images: All shots, each as for :meth:`features`, shape ``(1, 3, H, W)``.
        """
        copies = TurnedCopies(self, images)
        self.choose_turns(copies)
        return [self._all_copies(copies, number) for number in range(len(images))]

    def _all_copies(self, copies: "TurnedCopies", number: int) -> BankFeatures:
        """Return what the bank keeps of one shot."""
        turns = self._kept_turns
        upright, *turned = (copies(number, turn) for turn in turns)
        if not turned:
            return BankFeatures(upright, None)
        novel = [self._novel(copy[0], upright[0], turn) for copy, turn in zip(turned, turns[1:], strict=True)]
        inside = torch.cat([torch.ones_like(novel[0]), *novel])
        return BankFeatures(torch.cat([upright, *turned], dim=1), inside.unsqueeze(0))

    def _novel(self, copy: torch.Tensor, upright: torch.Tensor, turn: int) -> torch.Tensor:
        """Return which patches of a turned copy belong in the bank, of shape ``(n,)``; both have ``(n, width)``."""
        bank = ScaledMemoryBank(self.backbone.width, self.backbone.grid).to(copy)
        bank.build(upright)
        inside = patches_inside(turn, self.backbone.grid, copy.device)
        distances = bank(copy.unsqueeze(0)).squeeze(0).masked_fill(~inside, -1)
        kept = torch.zeros_like(inside)
        kept[distances.topk(int(NOVEL * len(distances))).indices] = True
        return kept & inside

    @property
    def copies(self) -> int:
        """How often a shot is in the bank, turned."""
        return len(self._kept_turns)

    @property
    def _kept_turns(self) -> list[int]:
        return torch.nonzero(self.turns).flatten().tolist()

    def choose_turns(self, shots: "TurnedCopies | None" = None) -> None:
        """Decide in which turns the shots are to be in the bank, whichever were before: a run may be resumed otherwise.

        Where they are not asked for, the shots choose. Parts lie at any angle if copies of one shot, turned by every 30
        degrees, are much nearer to another shot than it is itself. Else those turns by right angles are kept that are
        hardly farther from their shot than slightly moved ones: all of them for an even texture, none for what stands
        upright. A single shot cannot tell at which angles others lie: it is remembered at every 30 degrees, which costs
        parts that stand upright less than it gives to the others. Only what the shots tell counts as :attr:`lying`.

        Args:
            shots: All shots; ``None`` where they are not asked.
        """
        lying = chosen = [0] if self.asked_turns == AUTO else turns_of(self.asked_turns)
        if self.asked_turns == AUTO and shots is not None:
            any_angle = turns_of(ANY_ANGLE)
            if self.unexplained(shots, any_angle) <= _EXPLAINED:
                lying = any_angle
            else:
                table = turns_of("right_angles")
                ratios = torch.stack([self.compare_turns(shots, number) for number in range(len(shots))])
                means = ratios.mean(dim=0).tolist()
                lying = [turn for turn, ratio in zip(table, means, strict=True) if turn == 0 or ratio <= _LIKE]
            chosen = any_angle if len(shots) == 1 else lying
        self.turns.copy_(_flags(chosen))
        self.lying.copy_(_flags(lying))

    def unexplained(self, shots: "TurnedCopies", turns: Sequence[int]) -> float:
        """Measure which share of the distance between two shots is left if one of them may be turned.

        Args:
            shots: Shots, of which the first few are compared.
            turns: Turns of the table, upright first.

        Returns:
            Mean distance to the nearest of the turned patches by that to the nearest of the upright ones, over all
            ordered pairs of shots; 1 for a single shot.
        """
        if len(shots) == 1:
            return 1.0
        upright = [shots(number, 0) for number in range(min(len(shots), _COMPARED))]
        plain, turned = 0.0, 0.0
        for number, own in enumerate(upright):
            others = torch.cat(upright[:number] + upright[number + 1 :])
            bank = ScaledMemoryBank(self.backbone.width, self.backbone.grid).to(others)
            bank.build(own)
            plain += float(bank(others).mean())
            for turn in turns[1:]:
                bank.extend(shots(number, turn), inside=patches_inside(turn, self.backbone.grid, own.device))
            turned += float(bank(others).mean())
        return turned / max(plain, torch.finfo(torch.float32).tiny)

    def compare_turns(self, shots: "TurnedCopies", number: int) -> torch.Tensor:
        """Measure how much farther the copies of a shot, turned by right angles, are from it than slightly moved ones.

        About 1 for a turn that could be of another normal part: all of them for an even texture, none but a mirror
        image for what stands upright.

        Args:
            shots: The shots.
            number: Number of the shot.

        Returns:
            Ratio of the mean distances, a turned copy's to those of the moved ones, shape ``(8,)``; 0 for the first,
            which is the shot itself.
        """
        upright = shots(number, 0)
        bank = ScaledMemoryBank(self.backbone.width, self.backbone.grid).to(upright)
        bank.build(upright)
        turned = torch.stack([bank(shots(number, turn)).mean() for turn in turns_of("right_angles")])
        moved = torch.stack([bank(self.features(copy)).mean() for copy in _moved(shots.images[number])])
        return turned / moved.mean().clamp_min(torch.finfo(moved.dtype).eps)


class TurnedCopies:
    """Features of turned copies of shots, encoded when they are first asked for, and kept.

    Args:
        memory: The memory.
        images: Shots, each as for :meth:`SecondMemory.features`, shape ``(1, 3, H, W)``.

    Attributes:
        images: The shots in the size that the backbone sees.
    """

    def __init__(self, memory: SecondMemory, images: Sequence[torch.Tensor]) -> None:
        self._features, self._originals = memory.features, images
        self.images = [resize(image, memory.backbone.image_size) for image in images]
        self._kept: dict[tuple[int, int], torch.Tensor] = {}

    def __len__(self) -> int:
        """Return the number of shots."""
        return len(self.images)

    def __call__(self, number: int, turn: int) -> torch.Tensor:
        """Return the features of a copy of one shot, shape ``(1, n, width)``."""
        if (number, turn) not in self._kept:
            image = turn_image(self.images[number], turn) if turn else self._originals[number]
            self._kept[number, turn] = self._features(image)
        return self._kept[number, turn]


def _flags(turns: Sequence[int]) -> torch.Tensor:
    """Return which turns of the table are among those given, shape ``(NUM_TURNS,)``, dtype bool."""
    flags = torch.zeros(NUM_TURNS, dtype=torch.bool)
    flags[list(turns)] = True
    return flags


def _moved(images: torch.Tensor) -> list[torch.Tensor]:
    """Return images turned by a few degrees, scaled and shifted by a few pixels, mirrored beyond their edges."""
    size, margin = list(images.shape[-2:]), images.shape[-1] // 8
    padded = nn.functional.pad(images, [margin] * 4, mode="reflect")
    moved = [
        tv_functional.affine(
            padded, angle, list(shift), scale, shear=[0.0], interpolation=tv_functional.InterpolationMode.BILINEAR
        )
        for angle, scale, shift in _MOVES
    ]
    return [tv_functional.center_crop(image, size) for image in moved]
