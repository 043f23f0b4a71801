# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How finely the second memory may see: the size of its images, by what an image costs.

Patches and rows of the bank grow with the square of the side, and the comparison of the two with its fourth power. The
cost is counted, not timed: the same options give the same size on every machine.
"""

from bisect import bisect_left
from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

from anople_anomalib.backbones.timm_features import count_features
from anople_anomalib.backbones.timm_loading import feature_layers
from anople_anomalib.config import AUTO, DEFAULT

from .second_memory import ANY_ANGLE, NOVEL
from .turns import turns_of

OPERATIONS = 5e10
"""Budget of an image: two seconds at the 2.5e10 operations a second that a core of the development machine reaches."""
MEGABYTES = 500.0
"""Budget of an image: rows of the bank, and the largest layer of the backbone."""
SMALLEST, LARGEST = 224, 1024
"""Bounds of the side, whatever the budget."""
_SHOTS = 4  # where their number is not known


class ImageCost(NamedTuple):
    """What an image costs in the second memory."""

    operations: float  # multiplications and additions, of the features and of the comparison with the bank
    megabytes: float  # of the bank, and of the largest layer of the backbone
    rows: int  # rows of the bank
    stride: int  # pixels of the image along a patch


def cost_of(memory: Mapping[str, Any], image_size: int, shots: int | None = None, tiles: int = 1) -> ImageCost:
    """Count what an image costs.

    Args:
        memory: Resolved options of the memory; turns that the shots choose count as the most that they may be.
        image_size: Side of the images, or of their tiles.
        shots: Number of shots; ``None`` for 4.
        tiles: Number of tiles; shots in tiles are not turned.

    Raises:
        ValueError: If backbone and layers do not fit.
    """
    layers = None if memory["backbone_layers"] == DEFAULT else tuple(memory["backbone_layers"])
    features = count_features(memory["backbone"], layers, image_size)
    copies = 1 if tiles > 1 else len(turns_of(ANY_ANGLE if memory["turns"] == AUTO else memory["turns"]))
    patches = tiles * features.patches
    rows = int(memory["coreset_ratio"] * (shots or _SHOTS) * patches * (1 + NOVEL * (copies - 1)))
    rows = min(rows, patches) if memory["subspace"] else rows
    return ImageCost(
        tiles * features.operations + 2 * patches * rows * features.width,
        features.megabytes + 4 * rows * features.width / 1e6,
        rows,
        image_size // isqrt(features.patches),
    )


def image_sides(memory: Mapping[str, Any]) -> list[int]:
    """Return the sides that fit a backbone: the multiples of its largest stride within the bounds."""
    step = max(feature_layers(memory["backbone"]).values())
    return [side for side in range(step, LARGEST + 1, step) if side >= SMALLEST]


def finest_image_size(memory: Mapping[str, Any], shots: int | None = None) -> int:
    """Return the largest side whose cost, see :func:`cost_of`, is within the budget, or the smallest there is."""

    def is_beyond(side: int) -> bool:
        """Return whether an image of this side costs too much."""
        cost = cost_of(memory, side, shots)
        return cost.operations > OPERATIONS or cost.megabytes > MEGABYTES

    sides = image_sides(memory)
    return sides[max(0, bisect_left(sides, True, key=is_beyond) - 1)]
