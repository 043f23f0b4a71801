# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The memories of a training run, and the weights that the parts earn on views of its shots."""

from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple, cast

import torch
from torch import nn
from torchvision.transforms.v2 import Transform

from anople_anomalib.backbones.outputs import ShotFeatures
from anople_anomalib.config import AUTO
from anople_anomalib.method.fusion import WeightedFusion
from anople_anomalib.method.fusion_weights import Trial, choose_weights, damage
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.method.state_checks import require_memory
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.utils.batches import joined
from anople_anomalib.utils.transforms import pointwise, resize

from .held_out import allowed_turns, moved_region, parts_shown, view_of, without_shot
from .shots import Shots

_TRIALS = 12
"""Normal views that the parts are tried on, and as many damaged ones: at least, and at most as many shots."""
RegionOf = Callable[[int], torch.Tensor | None]
"""Region of the shot of a number, shape ``(1, 1, H, W)``; ``None`` where all shots have the model's."""


class _View(NamedTuple):
    """A normal view of a shot, or of one of its tiles, and its damaged copy.

    Attributes:
        shot: Number of the shot.
        images: Pre-processed, shape ``(2, 3, h, w)``.
        masks: 1 where damaged, shape ``(2, h, w)``.
        second_map: The second memory's map without the shot, shape ``(2, h', w')``; ``None`` without that memory.
    """

    shot: int
    images: torch.Tensor
    masks: torch.Tensor
    second_map: torch.Tensor | None


class ShotMemory:
    """Fills a model's memories with the shots of a training run, as often as its prompts change.

    Everything that does not depend on the prompts is computed once: the turns of the shots, their features for the
    second memory, the views on which the parts are tried, and the second memory's maps of them.

    Args:
        model: The model.
        shots: The shots.
        transform: The pre-processor's transform.
        region_of: Region of each shot; ``None`` where all have the model's.

    Attributes:
        gain: What prompts and decoder added to the memories at the last filling, see :func:`.choose_weights`.

    Raises:
        RuntimeError: If the model has no memory.
    """

    def __init__(
        self,
        model: AnoPLeModel,
        shots: Shots,
        transform: nn.Module | None = None,
        region_of: RegionOf | None = None,
    ) -> None:
        require_memory(model.memory_bank)
        self._model, self._shots, self._transform = model, shots, transform or nn.Identity()
        self._region_of: RegionOf = region_of or (lambda _number: None)
        self._parts = parts_shown(shots)
        self._second: tuple[torch.Tensor | None, torch.Tensor | None] | None = None
        self._views: list[_View] = []
        self.gain = 0.0

    @torch.no_grad()
    def fill(self) -> ShotFeatures:
        """Fill the memory banks by the present prompts, and weigh the parts of a weighted fusion.

        Returns:
            The features of both banks, one row per shot.
        """
        model, categories = self._model, self._shots.categories
        images = self._images()
        if self._second is None:
            self._second = self._encode_second(images)
        first = joined([model.first_features(image, region) for image, region in images])
        features = ShotFeatures(first.features, self._second[0], first.inside, self._second[1])
        require_memory(model.memory_bank).build(features.first, categories, features.first_inside)
        if model.second_memory is not None:
            model.second_memory.memory_bank.build(require_memory(features.second), categories, features.second_inside)
        if isinstance(model.fusion, WeightedFusion):
            self._views = self._views or self._make_views(features)
            _, self.gain = choose_weights(joined(list(self._try_views(features))), model.fusion)
        return features

    def _images(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return the pre-processed shots and their regions."""
        device = self._model.is_fitted.device
        return [
            (self._transform(self._shots.image(number).to(device)), self._region_of(number))
            for number in range(len(self._shots.categories))
        ]

    def _encode_second(
        self, images: list[tuple[torch.Tensor, torch.Tensor | None]]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return features and membership of all shots for the second memory, which chooses its turns."""
        model = self._model
        if model.second_memory is None:
            return None, None
        if model.second_memory.asked_turns == AUTO:  # never where there are tiles or a region
            return joined(model.second_memory.encode_shots([image for image, _ in images]))
        model.second_memory.choose_turns()
        return joined([model.second_features(image, region) for image, region in images])

    def _make_views(self, features: ShotFeatures) -> list[_View]:
        """Make the views that the parts are tried on, of each shot alike many."""
        views, number = [], ceil(_TRIALS / len(features.first))
        second, categories = self._model.second_memory, self._shots.categories
        for shot in range(min(len(features.first), _TRIALS)):
            bank: MemoryBank | None = None
            if second is not None:
                rows = require_memory(features.second)
                bank = without_shot(second.memory_bank, rows, categories, self._parts, shot, features.second_inside)
            views += [self._view(shot, shot * _TRIALS + view, bank) for view in range(number)]
        return views

    def _view(self, shot: int, seed: int, bank: MemoryBank | None) -> _View:
        """Make a normal view of a shot and damage a copy; where there is a region it is turned and shifted with it."""
        model, region = self._model, self._region_of(shot)
        image = self._shots.image(shot).to(model.is_fitted.device)
        if region is None and model.region is not None:
            region = model.region(model.input_size)
        generator, size, tile, transform = torch.Generator().manual_seed(seed), model.tile_size, 0, self._transform
        number = 1 if model.tiling is None else model.tiling.number
        if number > 1:  # a tile has its size already
            tile = int(torch.randint(number, (), generator=torch.Generator().manual_seed(seed)))
            image = model.tiling.cut(resize(image, model.input_size), size)[tile : tile + 1].clamp(0, 1)
            transform = nn.Sequential(*pointwise(cast("Transform", transform)))
        turns = allowed_turns(model)
        normal = view_of(image, size, turns, generator)
        damaged, mask = damage(normal, generator)
        images, masks = transform(torch.cat([normal, damaged])), torch.cat([torch.zeros_like(mask), mask])
        if region is not None:
            inside = model.tiling.cut(region, size)[tile : tile + 1]
            moved = moved_region(inside, size, turns, seed)
            images, masks = images * moved, masks * moved.squeeze(1)
        second_map: torch.Tensor | None = None
        if model.second_memory is not None and isinstance(bank, ScaledMemoryBank):
            distances = bank.at_part(tile, number)(model.second_memory.features(images))
            second_map = model.resized_map(distances, model.second_memory.backbone.grid)
        return _View(shot, images, masks, second_map)

    def _try_views(self, features: ShotFeatures) -> Iterator[Trial]:
        """Yield the parts' findings on every view, by the memory of the other shots where there are others."""
        model, bank = self._model, None
        for number, view in enumerate(self._views):
            if number == 0 or view.shot != self._views[number - 1].shot:
                bank = without_shot(
                    model.memory_bank,
                    features.first,
                    self._shots.categories,
                    self._parts,
                    view.shot,
                    features.first_inside,
                )
            visual = model.encode_by_clip(view.images)
            yield Trial(
                probability=model.abnormal_probability(visual),
                decoder_map=model.decoder_map(visual),
                first_map=model.first_memory_map(visual, bank),
                second_map=view.second_map,
                masks=view.masks,
            ).small()
