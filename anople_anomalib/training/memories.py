# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a finished training run memorizes: the features of its shots, and the weights that the parts earn on them."""

from collections.abc import Sequence
from itertools import islice
from math import ceil
from typing import NamedTuple, cast

import torch
from torch import nn
from torchvision.transforms.v2 import Transform

from anople_anomalib.method.fusion import WeightedFusion
from anople_anomalib.method.fusion_weights import Trial, choose_weights
from anople_anomalib.method.memory_bank import MemoryBank, ScaledMemoryBank
from anople_anomalib.method.state_checks import require_memory
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.method.trial_images import damage, normal_view
from anople_anomalib.tiles.large_images import ShotFeatures
from anople_anomalib.tiles.region import at_size
from anople_anomalib.utils.resizing import resize
from anople_anomalib.utils.trainers import trainer_of
from anople_anomalib.utils.transforms import pointwise

from .held_out import HeldOutShots, moved_region, without_shot
from .hooks import FewShotTraining

_TRIALS = 12
"""Normal views that the parts are tried on, and as many damaged ones: at least, and at most as many shots."""


@torch.no_grad()
def fill_memories(training: FewShotTraining, model: AnoPLeModel, transform: nn.Module | None) -> None:
    """Fill the memory banks with the shots, and weigh the parts of the fusion.

    Args:
        training: The training run, which has the shots; of several processes, each has its share.
        model: The trained model.
        transform: What the pre-processor does to an image.
    """
    transform = transform or nn.Identity()
    rows: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    if training.shots is not None and training.shots.validate:
        training.held_out = HeldOutShots(model, training.shots, rows, transform)
    if model.memory_bank is None:
        return
    if (memory := model.second_memory) is not None:
        ratios: torch.Tensor | None = None
        if memory.rotations is None:
            compared = [memory.compare_turns(transform(image)) for image in training.normal_images()]
            ratios = training.gather_shots(torch.cat(compared))
        memory.choose_turns(ratios)
    shots = [
        model.shot_features(transform(image), regions)
        for image, regions in zip(training.normal_images(), training.normal_regions(), strict=False)
    ]
    columns = [None if column[0] is None else torch.cat(column) for column in zip(*shots, strict=True)]
    features = ShotFeatures._make(None if column is None else _gathered(training, column) for column in columns)
    categories = [0] * len(features.first) if training.shots is None else training.shots.categories
    model.memory_bank.build(features.first, categories, features.first_inside)
    rows.append((features.first, features.first_inside))
    if model.second_memory is not None:
        second = require_memory(features.second)
        model.second_memory.memory_bank.build(second, categories, features.second_inside)
        rows.append((second, features.second_inside))
    if isinstance(model.fusion, WeightedFusion):
        trial = _try_parts(training, model, transform, features, categories)
        model.fusion.set_weights(choose_weights(trial, model.fusion))


def _gathered(training: FewShotTraining, rows: torch.Tensor) -> torch.Tensor:
    """Gather the rows of all processes; booleans as numbers, which every backend sends."""
    gathered = training.gather_shots(rows.float())
    return gathered > 0 if rows.dtype == torch.bool else gathered.to(rows.dtype)


def _try_parts(
    training: FewShotTraining,
    model: AnoPLeModel,
    transform: nn.Module,
    features: ShotFeatures,
    categories: Sequence[int],
) -> Trial:
    """Try the parts on views of the shots, in all processes together.

    A view of a shot is compared with the other shots alone, where there are others.

    Args:
        training: As for :func:`fill_memories`.
        model: The trained model.
        transform: What the pre-processor does to an image.
        features: Features of both memories, one row per shot.
        categories: Number of each shot's category.

    Returns:
        The same trial in every process.
    """
    trainer = trainer_of(training)
    rank, processes = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
    shots = len(features.first)
    views = ceil(_TRIALS / shots)
    share = ceil(min(shots, _TRIALS) / processes)
    # a tile has its size already
    of_tile = transform if model.tiling.number == 1 else nn.Sequential(*pointwise(cast("Transform", transform)))
    rows = []
    images = zip(training.normal_images(), training.normal_regions(), strict=False)
    for index, (image, regions) in enumerate(islice(images, share)):
        number = (rank + processes * index) % shots
        banks = [without_shot(model.memory_bank, features.first, categories, number, features.first_inside)]
        if model.second_memory is not None:
            bank, second = model.second_memory.memory_bank, require_memory(features.second)
            banks.append(without_shot(bank, second, categories, number, features.second_inside))
        region = model.region(model.input_size) if regions is None else regions
        seeds = range(number * _TRIALS, number * _TRIALS + views)
        trials = [_try_view(model, _make_view(model, image, region, seed), of_tile, banks) for seed in seeds]
        rows.append([None if part[0] is None else torch.cat(part) for part in zip(*trials, strict=True)])
    columns = [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
    return Trial._make(None if column is None else training.gather_shots(column).flatten(0, 1) for column in columns)


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
    normal = normal_view(image, size, generator)
    damaged, mask = damage(normal, generator)
    images, masks = torch.cat([normal, damaged]), torch.cat([torch.zeros_like(mask), mask])
    moved: torch.Tensor | None = None
    if region is not None:
        inside = model.tiling.cut(at_size(region, model.input_size), size)[tile : tile + 1]
        moved = moved_region(inside, size, seed)
        masks = masks * moved.squeeze(1)
    return _Tried(images, masks, tile, moved)
