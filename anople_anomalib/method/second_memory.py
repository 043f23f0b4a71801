# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A second memory of the normal shots, of features that have seen photographs."""

import torch
from torch import nn
from torchvision.transforms.v2 import functional as tv_functional

from anople_anomalib.backbones.package_weights import LITE0
from anople_anomalib.backbones.timm_features import NO_BACKBONE, MemoryBackbone
from anople_anomalib.utils.resizing import resize

from .memory_bank import ScaledMemoryBank
from .subspace import SubspaceMemoryBank

_TURNS = 8  # rotations by right angles, of an image and of its mirror image
_MOVES = ((5, 1.05, (4, -3)), (-5, 1.08, (-4, 3)), (3, 1.03, (2, 4)), (-8, 1.1, (-3, -4)))  # angle, scale, shift
_LIKE = 2.0  # a turned copy is like other normal parts if it is at most so much farther than moved ones


def resolve_memory_backbone(name: str | None, *, tiny: bool, memory: bool) -> str | None:
    """Return the name of the second backbone, or ``None`` for none.

    Args:
        name: What the user asked for: a name, ``"none"``, or ``None`` for the default.
        tiny: Whether the backbone is the bundled one, which has hardly seen a photograph.
        memory: Whether there is a memory.

    Raises:
        ValueError: If a second backbone is asked for without a memory.
    """
    if name is None:
        return LITE0 if tiny and memory else None
    if name == NO_BACKBONE:
        return None
    if not memory:
        msg = f"memory_backbone {name!r} is for the memory: give use_memory=True, or memory_backbone={NO_BACKBONE!r}."
        raise ValueError(msg)
    return name


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
        position_weight: How much farther a patch counts at another place, see :class:`.memory_bank.ScaledMemoryBank`.
        rotations: Whether shots are in the bank in all rotations by right angles, mirrored and not: for parts without
            an upright position. The bank and the time of a query grow eightfold. ``None`` takes those turns that the
            shots themselves choose, see :meth:`compare_turns`.
        per_category: Whether the bank keeps categories apart.
        subspace: Share of the variance of its rows that the subspace of the normal patches explains, see
            :class:`.subspace.SubspaceMemoryBank`; 0 for none.
    """

    def __init__(
        self,
        backbone: MemoryBackbone,
        coreset_sampling_ratio: float = 1.0,
        position_weight: float = 0.0,
        rotations: bool | None = False,
        per_category: bool = False,
        subspace: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.rotations, self.subspace = backbone, rotations, subspace
        self.register_buffer("turns", self._asked_turns())  # those in the bank, saved: it may grow later
        self.turns: torch.Tensor
        bank = (backbone.width, backbone.grid, coreset_sampling_ratio, position_weight, per_category)
        self.memory_bank = SubspaceMemoryBank(*bank, share=subspace) if subspace else ScaledMemoryBank(*bank)
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

    def shot_features(self, images: torch.Tensor) -> torch.Tensor:
        """Encode normal images for the bank.

        Args:
            images: As for :meth:`features`.

        Returns:
            Patch features of shape ``(B, n, width)``, or ``(B, t n, width)`` where shots are in the bank in t
            :attr:`copies`.
        """
        if self.copies == 1:
            return self.features(images)
        turned = _turned(resize(images, self.backbone.image_size))
        kept = [copy for copy, is_kept in zip(turned, self.turns.tolist(), strict=True) if is_kept]
        return torch.cat([self.features(copy) for copy in kept], dim=1)

    @property
    def copies(self) -> int:
        """How often a shot is in the bank, turned."""
        return int(self.turns.sum())

    def compare_turns(self, images: torch.Tensor) -> torch.Tensor:
        """Measure how much farther the turned copies of a shot are from it than slightly moved ones.

        About 1 for a turn that could be of another normal part: all of them for an even texture, none but a mirror
        image for what stands upright.

        Args:
            images: As for :meth:`features`.

        Returns:
            Ratio of the mean distances, a turned copy's to those of the moved ones, shape ``(B, 8)``; 0 for the first,
            which is the shot itself.
        """
        ratios = []
        for image in resize(images, self.backbone.image_size).split(1):
            bank = ScaledMemoryBank(self.backbone.width, self.backbone.grid).to(image)
            bank.build(self.features(image))
            turned, moved = (
                torch.stack([bank(self.features(copy)).mean() for copy in copies])
                for copies in (_turned(image), _moved(image))
            )
            ratios.append(turned / moved.mean().clamp_min(torch.finfo(moved.dtype).eps))
        return torch.stack(ratios)

    def choose_turns(self, ratios: torch.Tensor | None = None) -> None:
        """Decide in which turns the shots are to be in the bank, whichever were before: a run may be resumed otherwise.

        Args:
            ratios: Of all shots, see :meth:`compare_turns`; ``None`` for the turns that were asked for.
        """
        self.turns.copy_(self._asked_turns() if ratios is None else ratios.mean(dim=0) <= _LIKE)
        self.turns[0] = True

    def _asked_turns(self) -> torch.Tensor:
        return torch.arange(_TURNS) < (_TURNS if self.rotations else 1)


def _turned(images: torch.Tensor) -> list[torch.Tensor]:
    """Return images in all rotations by right angles, mirrored and not; the first are the images themselves."""
    return [side.rot90(turns, (-2, -1)) for side in (images, images.flip(-1)) for turns in range(_TURNS // 2)]


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
