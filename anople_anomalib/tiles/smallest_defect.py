# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Size of the images, or tiles, by the smallest defect that is to be seen."""

import time
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch

from anople_anomalib.backbones.timm_features import own_image_size
from anople_anomalib.config import DEFAULT, NONE
from anople_anomalib.method.image_sizes import ImageCost, cost_of, image_sides
from anople_anomalib.method.state_checks import require_memory
from anople_anomalib.method.torch_model import AnoPLeModel

from .tiling import MAX_AUTO, Tiling, automatic_tiling

_BLOCK = 2048  # rows and queries whose comparison is timed


class Fineness(NamedTuple):
    """How finely images are seen."""

    image_size: int  # side of the second backbone's images, or of their tiles
    tiling: Tiling  # the tiles; a single one for the whole image
    cost: ImageCost  # what an image costs in the second memory


def fineness_for(
    defect: int, photographs: Sequence[tuple[int, int]], memory: Mapping[str, Any], shots: int
) -> Fineness:
    """Choose how finely images are seen, so that the smallest defect is as long as a patch.

    The preset's size is kept where it is fine enough; else images are larger, up to the bound, and beyond that cut into
    tiles of the preset's size, in which shots are not turned. No photograph is enlarged.

    Args:
        defect: Length of the smallest defect in pixels of the photographs.
        photographs: Heights and widths; the largest count.
        memory: Resolved options of the memory.
        shots: Number of shots.

    Raises:
        ValueError: If the memory has no second backbone, or more tiles would be needed than there may be.
    """
    if memory["backbone"] == NONE:
        msg = "The smallest defect decides on the second backbone's images: take a preset with one, such as offline."
        raise ValueError(msg)
    own = own_image_size(memory["backbone"]) if memory["image_size"] == DEFAULT else memory["image_size"]
    shrink = max(1.0, defect / cost_of(memory, own).stride)  # pixels of the photograph along one that is seen
    longest = max(max(sides) for sides in photographs)
    if fine := [side for side in (own, *image_sides(memory)) if side >= own and side * shrink >= longest]:
        return Fineness(fine[0], Tiling(), cost_of(memory, fine[0], shots))
    tiling = automatic_tiling(photographs, (own, own), shrink)
    if max(tiling.canvas((own, own))) * shrink < longest:
        msg = (
            f"Defects of {defect} pixels in photographs of {longest} pixels need more than {MAX_AUTO} tiles along a "
            "side: photograph a smaller part of the object, or give a larger --smallest-defect."
        )
        raise ValueError(msg)
    return Fineness(own, tiling, cost_of(memory, own, shots, tiling.number))


def seconds_of(model: AnoPLeModel, fineness: Fineness) -> float:
    """Measure how long the second memory of a model takes for an image, before it is filled."""
    memory = require_memory(model.second_memory)
    tile = torch.rand(1, 3, *model.tile_size)
    rows, queries = torch.rand(_BLOCK, memory.backbone.width), torch.rand(_BLOCK, memory.backbone.width)
    blocks = fineness.cost.rows / _BLOCK * fineness.tiling.number * prod(memory.backbone.grid) / _BLOCK
    encode, compare = _seconds(lambda: memory.features(tile)), _seconds(lambda: (queries @ rows.T).amax(dim=1))
    return fineness.tiling.number * encode + blocks * compare


@torch.no_grad()
def _seconds(run: Callable[[], object]) -> float:
    """Return the shorter of two times."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
