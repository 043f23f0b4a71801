# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The memory of a finished training run: the features of its shots, and the weights that the parts earn on them."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple, cast

import torch
from torch import nn
from torchvision.transforms.v2 import Transform

from anople_anomalib.method.fusion import WeightedFusion
from anople_anomalib.method.fusion_weights import Trial, choose_weights
from anople_anomalib.method.memory_bank import MemoryBank, ScaledMemoryBank
from anople_anomalib.method.second_memory import AUTO
from anople_anomalib.method.state_checks import require_memory
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.method.trial_images import damage, view_of
from anople_anomalib.tiles.large_images import ShotFeatures
from anople_anomalib.tiles.region import at_size
from anople_anomalib.utils.batches import joined
from anople_anomalib.utils.transforms import pointwise, resize

from .held_out import allowed_turns, banks_without, moved_region, parts_shown
from .shots import Shots

_TRIALS = 12
"""Normal views that the parts are tried on, and as many damaged ones: at least, and at most as many shots."""
RegionOf = Callable[[int], torch.Tensor | None]
"""Region of the shot of a number, shape ``(1, 1, H, W)``; ``None`` where all shots have the model's."""


@torch.no_grad()
def fill_memory(
    model: AnoPLeModel, shots: Shots, transform: nn.Module | None = None, region_of: RegionOf | None = None
) -> ShotFeatures:
    """Fill the memory banks with shots, and weigh the parts of the fusion.

    Args:
        model: The trained model.
        shots: The shots.
        transform: What the pre-processor does to an image.
        region_of: Region of each shot; ``None`` where all have the model's.

    Returns:
        The features of both banks, one row per shot.

    Raises:
        RuntimeError: If the model has no memory.
    """
    bank = require_memory(model.memory_bank)
    transform, numbers = transform or nn.Identity(), range(len(shots.categories))
    device = model.is_fitted.device
    if (second := model.second_memory) is not None:
        second.choose_turns(
            [transform(shots.image(number).to(device)) for number in numbers] if second.asked_turns == AUTO else ()
        )
    features = joined(
        [
            model.shot_features(transform(shots.image(number).to(device)), region_of(number) if region_of else None)
            for number in numbers
        ]
    )
    bank.build(features.first, shots.categories, features.first_inside)
    if second is not None:
        second.memory_bank.build(require_memory(features.second), shots.categories, features.second_inside)
    if isinstance(model.fusion, WeightedFusion):
        trial = _try_parts(model, shots, features, transform, region_of)
        model.fusion.set_weights(choose_weights(trial, model.fusion))
    return features


def _try_parts(
    model: AnoPLeModel, shots: Shots, features: ShotFeatures, transform: nn.Module, region_of: RegionOf | None
) -> Trial:
    """Try the parts on views of the shots; a view is compared with the other shots alone, where there are others.

    Args:
        model: The trained model.
        shots: The shots.
        features: Features of both memories, one row per shot.
        transform: What the pre-processor does to an image.
        region_of: As for :func:`fill_memory`.
    """
    views = ceil(_TRIALS / len(features.first))
    parts = parts_shown(shots)
    # a tile has its size already
    of_tile = transform if model.tiling.number == 1 else nn.Sequential(*pointwise(cast("Transform", transform)))
    rows = []
    for number in range(min(len(features.first), _TRIALS)):
        banks = banks_without(model, features, shots.categories, parts, number)
        region = region_of(number) if region_of else None
        region = model.region(model.input_size) if region is None else region
        image = shots.image(number).to(features.first.device)
        seeds = range(number * _TRIALS, number * _TRIALS + views)
        rows += [_try_view(model, _make_view(model, image, region, seed), of_tile, banks) for seed in seeds]
    return joined(rows)


class _Tried(NamedTuple):
    """A normal view and its damaged copy: images ``(2, 3, h, w)``, masks ``(2, h, w)``, their tile and its region."""

    images: torch.Tensor
    masks: torch.Tensor
    tile: int
    inside: torch.Tensor | None


def _try_view(model: AnoPLeModel, tried: _Tried, transform: nn.Module, banks: Sequence[MemoryBank]) -> Trial:
    """Try the parts on two images."""
    images = transform(tried.images)
    visual = model.encode_whole(images if tried.inside is None else images * tried.inside)
    second_map = None
    if len(banks) > 1 and isinstance(banks[1], ScaledMemoryBank):
        second_map = model.second_memory_map(visual, banks[1].at_part(tried.tile, model.tiling.number))
    return Trial(
        probability=model.abnormal_probability(visual),
        decoder_map=model.decoder_map(visual),
        first_map=model.first_memory_map(visual, banks[0]),
        second_map=second_map,
        masks=tried.masks,
    ).small()


def _make_view(model: AnoPLeModel, image: torch.Tensor, region: torch.Tensor | None, seed: int) -> _Tried:
    """Make a normal view of a shot, or of one of its tiles, and damage a copy.

    Where there is a region it is turned and shifted with the view.
    """
    generator, size, tile = torch.Generator().manual_seed(seed), model.tile_size, 0
    if model.tiling.number > 1:
        tile = int(torch.randint(model.tiling.number, (), generator=torch.Generator().manual_seed(seed)))
        image = model.tiling.cut(resize(image, model.input_size), size)[tile : tile + 1].clamp(0, 1)
    turns = allowed_turns(model)
    normal = view_of(image, size, turns, generator)
    damaged, mask = damage(normal, generator)
    images, masks = torch.cat([normal, damaged]), torch.cat([torch.zeros_like(mask), mask])
    moved: torch.Tensor | None = None
    if region is not None:
        inside = model.tiling.cut(at_size(region, model.input_size), size)[tile : tile + 1]
        moved = moved_region(inside, size, turns, seed)
        masks = masks * moved.squeeze(1)
    return _Tried(images, masks, tile, moved)
