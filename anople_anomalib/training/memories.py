# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a finished training run memorizes: the features of its shots, and the weights that the parts earn on them."""

from collections.abc import Sequence
from itertools import islice
from math import ceil

import torch
from torch import nn

from anople_anomalib.method.fusion import WeightedFusion
from anople_anomalib.method.fusion_weights import Trial, choose_weights
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.method.trial_images import damage, normal_view
from anople_anomalib.utils.trainers import trainer_of

from .held_out import HeldOutShots, without_shot
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
    features: list[torch.Tensor] = []
    if training.shots is not None and training.shots.validate:
        training.held_out = HeldOutShots(model, training.shots, features, transform)
    if model.memory_bank is None:
        return
    shots = [transform(image) for image in training.normal_images()]
    first = training.gather_shots(torch.cat([model.memory_features(image) for image in shots]))
    categories = [0] * len(first) if training.shots is None else training.shots.categories
    model.memory_bank.build(first, categories)
    features.append(first)
    second = None
    if (memory := model.second_memory) is not None:
        if memory.rotations is None:
            memory.choose_turns(training.gather_shots(torch.cat([memory.compare_turns(image) for image in shots])))
        second = training.gather_shots(torch.cat([memory.shot_features(image) for image in shots]))
        memory.memory_bank.build(second, categories)
        features.append(second)
    if isinstance(model.fusion, WeightedFusion):
        trial = _try_parts(training, model, transform, first, second, categories)
        model.fusion.set_weights(choose_weights(trial, model.fusion))


def _try_parts(
    training: FewShotTraining,
    model: AnoPLeModel,
    transform: nn.Module,
    first: torch.Tensor,
    second: torch.Tensor | None,
    categories: Sequence[int],
) -> Trial:
    """Try the parts on views of the shots, in all processes together.

    A view of a shot is compared with the other shots alone, where there are others.

    Args:
        training: As for :func:`fill_memories`.
        model: The trained model.
        transform: What the pre-processor does to an image.
        first: Features of the first memory, one row per shot.
        second: Features of the second, if there is one.
        categories: Number of each shot's category.

    Returns:
        The same trial in every process.
    """
    trainer = trainer_of(training)
    rank, processes = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
    shots, views = len(first), ceil(_TRIALS / len(first))
    share = ceil(min(shots, _TRIALS) / processes)
    rows = []
    for index, image in enumerate(islice(training.normal_images(), share)):
        number = (rank + processes * index) % shots
        banks = [without_shot(model.memory_bank, first, categories, number)]
        if model.second_memory is not None and second is not None:
            banks.append(without_shot(model.second_memory.memory_bank, second, categories, number))
        trials = [_try_view(model, image, transform, banks, number * _TRIALS + view) for view in range(views)]
        rows.append([None if part[0] is None else torch.cat(part) for part in zip(*trials, strict=True)])
    columns = [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
    return Trial._make(None if column is None else training.gather_shots(column).flatten(0, 1) for column in columns)


def _try_view(
    model: AnoPLeModel, image: torch.Tensor, transform: nn.Module, banks: Sequence[MemoryBank], seed: int
) -> Trial:
    """Try the parts on two images: a view of a shot, and its damaged copy."""
    generator = torch.Generator().manual_seed(seed)
    normal = normal_view(image, model.input_size, generator)
    damaged, mask = damage(normal, generator)
    visual = model.encode_whole(transform(torch.cat([normal, damaged])))
    return Trial(
        probability=model.abnormal_probability(visual),
        decoder_map=model.decoder_map(visual),
        first_map=model.first_memory_map(visual, banks[0]),
        second_map=model.second_memory_map(visual, banks[1]) if len(banks) > 1 else None,
        masks=torch.cat([torch.zeros_like(mask), mask]),
    ).small()
