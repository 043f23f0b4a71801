# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Shots as images to validate on: each is judged by the memory of the others.

A shot is at distance 0 of the memory that holds it, so that a threshold just above its score would call every other
part defective, or, after any distortion strong enough to move it away, none.
"""

import logging
from collections.abc import Callable, Sequence
from math import ceil
from typing import cast

import torch
from anomalib.data import ImageBatch, InferenceBatch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv_functional

from anople_anomalib.backbones.outputs import ShotFeatures
from anople_anomalib.method.fusion_weights import draw
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.state_checks import require_memory
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.method.turns import turn_image

from .copies import parts_of, thumbnail
from .shots import Shots

logger = logging.getLogger(__name__)

VIEWS = 12
"""Views of all shots together, where a shot has no other to be compared with."""
_UPPER = 0.9  # rank of the view that counts with a second memory; without one it is the worst
_SPREAD = 0.25  # quantile of the distances between patches of one shot
_MARGIN = 1 / 8  # of the side: what is drawn from outside of the image by a rotation is its mirror image


def view_of(
    image: torch.Tensor, size: tuple[int, int], turns: Sequence[int], generator: torch.Generator
) -> torch.Tensor:
    """Show a shot as another normal part might look: a little turned, shifted, brighter or darker.

    Args:
        image: Shape ``(1, 3, H, W)``, values in [0, 1].
        size: Height h and width w of the view.
        turns: Turns of :mod:`anople_anomalib.method.turns` in which parts may lie, one of which is drawn. ``[0]`` for
            parts that lie upright: a mirrored one is a defect then.
        generator: Source of randomness, on the CPU.

    Returns:
        Shape ``(1, 3, h, w)``, values in [0, 1].
    """
    turn = turns[int(torch.randint(len(turns), (), generator=generator))]
    view = tv_functional.resize(
        turn_image(image, turn), list(size), interpolation=InterpolationMode.BICUBIC, antialias=True
    ).clamp(0, 1)
    pad = [int(_MARGIN * side) for side in (size[1], size[1], size[0], size[0])]
    shift = [int(draw(generator, -0.05, 0.05) * side) for side in (size[1], size[0])]
    view = tv_functional.affine(
        F.pad(view, pad, mode="reflect"),
        angle=draw(generator, -10, 10),
        translate=shift,
        scale=draw(generator, 1.0, 1.1),
        shear=[0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    view = tv_functional.center_crop(view, list(size))
    mean = view.mean()
    return ((view - mean) * draw(generator, 0.9, 1.1) + mean * draw(generator, 0.9, 1.1)).clamp(0, 1)


def without_shot(
    bank: MemoryBank | None,
    features: torch.Tensor,
    categories: Sequence[int],
    parts: Sequence[int],
    number: int,
    inside: torch.Tensor | None = None,
) -> MemoryBank:
    """Return a bank without one shot and its copies, or with them where there is no other to compare it with.

    Args:
        bank: The bank, left as it is.
        features: What it was built from, one row per shot.
        categories: Number of each shot's category.
        parts: Number of the part that each shot shows, see :func:`.copies.parts_of`.
        number: Row of the shot.
        inside: Which of the features the bank holds; ``None`` for all.
    """
    reduced = require_memory(bank).twin()
    kept = [index for index in range(len(features)) if parts[index] != parts[number]]
    compared = [index for index in kept if reduced.lengths is None or categories[index] == categories[number]]
    kept = kept if compared else [*range(len(features))]
    if inside is not None:
        inside = inside.expand(features.shape[:-1])[kept]
    reduced.build(features[kept], [categories[index] for index in kept], inside)
    return reduced


def banks_without(
    model: AnoPLeModel, features: ShotFeatures, categories: Sequence[int], parts: Sequence[int], number: int
) -> list[MemoryBank]:
    """Return the model's banks without one shot, each by :func:`without_shot`.

    Args:
        model: The trained model, with its memory.
        features: What the banks were built from, one row per shot.
        categories: Number of each shot's category.
        parts: Number of the part that each shot shows.
        number: Row of the shot.
    """
    banks = [without_shot(model.memory_bank, features.first, categories, parts, number, features.first_inside)]
    if model.second_memory is not None:
        bank, rows = model.second_memory.memory_bank, require_memory(features.second)
        banks.append(without_shot(bank, rows, categories, parts, number, features.second_inside))
    return banks


def parts_shown(shots: Shots) -> list[int]:
    """Return the number of the part that each shot shows, see :func:`.copies.parts_of`."""
    return parts_of([thumbnail(shots.image(number)) for number in range(len(shots.categories))])


def allowed_turns(model: AnoPLeModel) -> list[int]:
    """Return the turns in which the shots tell that normal parts lie.

    A view in another turn is a defect where parts lie upright: a threshold above its score would let defects pass.

    Args:
        model: The trained model, with its memory.

    Returns:
        Turns as for :func:`.view_of`; upright alone without a second memory.
    """
    return [0] if model.second_memory is None else torch.nonzero(model.second_memory.lying).flatten().tolist()


def moved_region(region: torch.Tensor, size: tuple[int, int], turns: Sequence[int], seed: int) -> torch.Tensor:
    """Turn and shift a region as :func:`.view_of` with the same seed turns and shifts its image.

    Args:
        region: Shape ``(1, 1, H, W)``, True inside.
        size: Height h and width w of the view.
        turns: Turns of which the view's was drawn.
        seed: Seed of the view's generator.

    Returns:
        Shape ``(1, 1, h, w)``, dtype bool.
    """
    generator = torch.Generator().manual_seed(seed)
    shown = view_of(region.float().expand(-1, 3, -1, -1), size, turns, generator)
    return shown[:, :1] > 1 / 2  # the changes of brightness stay far from that


class HeldOutShots:
    """Predictions of shots by a memory that does not hold them.

    Where there is no other shot or no memory, shots are shown in views instead, as other normal parts might look, and
    one of the worst of them counts.

    Args:
        model: The trained model, with its memory.
        shots: The shots.
        features: What the memory banks were built from, see :meth:`.memory.ShotMemory.fill`; ``None`` without a memory.
        transform: What the pre-processor does to an image.
    """

    def __init__(
        self,
        model: AnoPLeModel,
        shots: Shots,
        features: ShotFeatures | None,
        transform: nn.Module | None,
    ) -> None:
        self._model, self._shots = model, shots
        self._features, self._transform = features, transform or nn.Identity()
        self._parts = parts_shown(shots)
        if (parts := len(set(self._parts))) < len(self._parts):
            logger.warning(
                "The %d shots show %d different parts, the others are copies or frames of a video: they say no more of "
                "how good parts differ, and a share of false alarms that counts them is too sure.",
                len(self._parts),
                parts,
            )
        self._numbers = {path: number for number, path in enumerate(shots.paths)}

    @torch.no_grad()
    def predict(self, batch: ImageBatch, regions: torch.Tensor | None = None) -> InferenceBatch:
        """Predict shots.

        Args:
            batch: Pre-processed shots with their paths.
            regions: Regions of these shots, where each has its own.

        Returns:
            As :meth:`AnoPLeModel.forward`.
        """
        images = cast("torch.Tensor", batch.image).split(1)
        numbers = [self._numbers[path] for path in batch.image_path or []]
        parts = [None] * len(images) if regions is None else regions.split(1)
        found = [
            (self._judge if self._has_others(number) else self._judge_views)(image, number, region)
            for image, number, region in zip(images, numbers, parts, strict=True)
        ]
        return InferenceBatch(
            pred_score=torch.cat([score for score, _ in found]),
            anomaly_map=torch.cat([anomaly_map for _, anomaly_map in found]),
        )

    @torch.no_grad()
    def spreads(self, region_of: Callable[[int], torch.Tensor | None]) -> list[float]:
        """Measure how much each shot differs from itself: how far its patches are from those elsewhere in it.

        See :class:`.OwnPatches`.

        Args:
            region_of: Region of each shot, shape ``(1, 1, H, W)``; ``None`` where all have the model's.

        Returns:
            The geometric mean of the lower quartile of each shot's map and of the score of that map; nothing without a
            second memory, whose distances alone were tried.
        """
        model = self._model
        if model.second_memory is None:
            return []
        from anople_anomalib.method.subspace_memory_bank import OwnPatches

        banks, spreads = [require_memory(model.memory_bank), OwnPatches(model.second_memory.memory_bank)], []
        for number in range(len(self._parts)):
            image, region = self._transform(self._shots.image(number).to(model.is_fitted.device)), region_of(number)
            found = model(image, region, banks)
            anomaly_map = cast("torch.Tensor", found.anomaly_map)
            if region is None and model.region is not None:
                region = model.region(anomaly_map.shape[-2:])
            if region is not None:
                from anople_anomalib.tiles.region import at_size

                anomaly_map = anomaly_map[at_size(region, (anomaly_map.shape[-2], anomaly_map.shape[-1]))]
            lower, score = anomaly_map.quantile(_SPREAD), cast("torch.Tensor", found.pred_score)
            spreads.append(float(lower * score) ** 0.5)
        return spreads

    def _has_others(self, number: int) -> bool:
        """Return whether there is another shot that the memory compares this one with."""
        if self._features is None or self._model.memory_bank is None:
            return False
        categories = self._shots.categories
        apart = self._model.memory_bank.lengths is not None
        return any(
            part != self._parts[number] and (not apart or category == categories[number])
            for part, category in zip(self._parts, categories, strict=True)
        )

    def _judge(
        self, image: torch.Tensor, number: int, region: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return score and map of one shot by the memory of the others."""
        features = cast("ShotFeatures", self._features)
        reduced = banks_without(self._model, features, self._shots.categories, self._parts, number)
        return self._detect(image, image.shape[-2:], region, reduced)

    def _judge_views(
        self, image: torch.Tensor, number: int, region: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return score and map of the view of one shot that counts."""
        whole, found = self._shots.image(number).to(image.device), []
        size = self._model.input_size
        if region is None and self._model.region is not None:
            region = self._model.region(size)
        turns = allowed_turns(self._model)
        for view in range(ceil(VIEWS / len(set(self._parts)))):
            seed = number * VIEWS + view
            shown = self._transform(view_of(whole, size, turns, torch.Generator().manual_seed(seed)))
            moved = None if region is None else moved_region(region, size, turns, seed)
            found.append(self._detect(shown, image.shape[-2:], moved))
        found.sort(key=lambda each: float(each[0]))
        return found[-1 if self._model.second_memory is None else round(_UPPER * (len(found) - 1))]

    def _detect(
        self,
        image: torch.Tensor,
        size: torch.Size,
        region: torch.Tensor | None,
        banks: Sequence[MemoryBank] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return score and map of a pre-processed image."""
        found = self._model(image, region, banks)
        anomaly_map = cast("torch.Tensor", found.anomaly_map)
        if anomaly_map.shape[-2:] != size:  # without a pre-processor, a shot has its own size
            anomaly_map = F.interpolate(anomaly_map, size=size, mode="bilinear")
        return cast("torch.Tensor", found.pred_score), anomaly_map
