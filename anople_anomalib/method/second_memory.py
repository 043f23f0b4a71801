# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A second memory of the normal shots, of features that have seen photographs."""

import torch
from torch import nn

from anople_anomalib.utils.resizing import resize

from .lite0_weights import LITE0
from .memory_backbones import NO_BACKBONE, MemoryBackbone
from .memory_bank import ScaledMemoryBank

_TURNS = 8  # rotations by right angles, of an image and of its mirror image


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


class SecondMemory(nn.Module):
    """A frozen backbone of its own and the bank of its patch features, beside the memory of the prompted CLIP.

    Args:
        backbone: The backbone.
        coreset_sampling_ratio: Share of the patch features that the bank keeps.
        position_weight: How much farther a patch counts at another place, see :class:`.memory_bank.ScaledMemoryBank`.
        rotations: Whether shots are in the bank in all rotations by right angles, mirrored and not: for parts without
            an upright position. The bank and the time of a query grow eightfold.
        per_category: Whether the bank keeps categories apart.
    """

    def __init__(
        self,
        backbone: MemoryBackbone,
        coreset_sampling_ratio: float = 1.0,
        position_weight: float = 0.0,
        rotations: bool = False,
        per_category: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.rotations = backbone, rotations
        self.memory_bank = ScaledMemoryBank(
            backbone.width, backbone.grid, coreset_sampling_ratio, position_weight, per_category
        )
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
            Patch features of shape ``(B, n, width)``, or ``(B, 8 n, width)`` with rotations.
        """
        if not self.rotations:
            return self.features(images)
        images = resize(images, self.backbone.image_size)
        turned = [side.rot90(turns, (-2, -1)) for side in (images, images.flip(-1)) for turns in range(_TURNS // 2)]
        return torch.cat([self.features(image) for image in turned], dim=1)
