# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Large images and regions of interest, around a model of whole images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.outputs import ShotFeatures
from anople_anomalib.method.fusion import top_mean
from anople_anomalib.method.memory_bank import BankFeatures, MemoryBank
from anople_anomalib.method.second_memory import SecondMemory
from anople_anomalib.method.state_checks import check_weights, require_memory
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.method.views import double
from anople_anomalib.utils.batches import joined
from anople_anomalib.utils.transforms import is_size, resize, resize_exactly

from .region import Region, at_size
from .tiling import Tiling

_TILES_AT_ONCE = 8  # which bounds the memory of an image of any number of tiles


class Parts(NamedTuple):
    """The prompted CLIP's findings on the tiles of B images; T tiles an image.

    Attributes:
        probability: p_hat of every tile, shape ``(B * T,)``.
        decoder_map: M_hat of every tile, shape ``(B * T, h, w)``.
        memory_features: Patch features of every tile, shape ``(B * T, n, d_v)``; ``None`` without a memory.
        second_features: Those of the second backbone, shape ``(B * T, n', D')``; ``None`` without one.
    """

    probability: torch.Tensor
    decoder_map: torch.Tensor
    memory_features: torch.Tensor | None
    second_features: torch.Tensor | None


class LargeImages(nn.Module):
    """A model of whole images that judges the tiles of large ones, and a region of interest.

    An image is resized to a canvas that the tiles cover, and the rest outside of the region of interest is made blank:
    nothing there can change anything. Each tile is encoded on its own, the maps of the tiles are merged, and the image
    is as anomalous as its most anomalous tile: in a mean over the whole image, a defect that fills a tile would vanish.

    It stands where the model stood: all else that is asked of it, the model answers.

    Args:
        model: The model, trained or not.
    """

    def __init__(self, model: AnoPLeModel) -> None:
        super().__init__()
        self.model = model
        self.tiling, self.region = Tiling(), Region().to(model.is_fitted.device)
        self.register_buffer("tile_grid", torch.ones(2, dtype=torch.long, device=model.is_fitted.device))
        self.tile_grid: torch.Tensor  # rows, columns: saved
        self.register_load_state_dict_pre_hook(check_weights)
        self.register_load_state_dict_pre_hook(_restore_tiling)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":  # a copy in the making
                raise
            return getattr(self.model, name)

    def for_inference(self) -> "LargeImages":
        """Return a copy that can only detect, see :meth:`AnoPLeModel.for_inference`."""
        copy = LargeImages(self.model.for_inference())
        copy.set_tiling(self.tiling)
        copy.region.set(self.region.mask)
        return copy.eval()

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that the model takes: those of the canvas of all tiles."""
        return self.tiling.canvas(self.model.tile_size)

    def set_tiling(self, tiling: Tiling) -> None:
        """Judge images by these tiles; the memories still hold features of those before."""
        self.tiling = tiling
        self.tile_grid = torch.tensor([tiling.rows, tiling.columns], device=self.tile_grid.device)
        if (memory := self.model.second_memory) is not None:
            bank, grid = memory.memory_bank, memory.backbone.grid
            bank.set_places(tiling.places(grid))

    def forward(
        self,
        images: torch.Tensor,
        regions: torch.Tensor | None = None,
        banks: Sequence[MemoryBank] | None = None,
    ) -> InferenceBatch:
        """Detect anomalies in whole images, in one pass.

        Args:
            images: Normalized images, shape ``(B, 3, H, W)``; resized to the backbones' sizes.
            regions: Regions of interest of these images, shape ``(B, 1, H', W')``, dtype bool; ``None`` for the one of
                all images, if there is one.
            banks: Other memory banks than the model's own, in the same order: of CLIP, of the second backbone.

        Returns:
            ``pred_score`` (14) of shape ``(B, 1)`` and ``anomaly_map`` M_q (12) of shape ``(B, 1, H, W)``, both in
            [0, 0.5] (in [0, 1] without a memory); the map is 0 outside of the region.
        """
        size = images.shape[-2:]
        images, regions = self._within(images, regions)
        tiles, probability = self.tiling.cut(images, self.model.tile_size), None
        if self.model.second_memory is not None and self.model.fusion.memory_alone:  # CLIP would run for nothing
            features = torch.cat([self.model.second_memory.features(some) for some in self._at_once(tiles)])
            anomaly_map = self._second_map(self.model.second_memory, features, banks)
        else:
            parts = self._inspect(tiles)
            probability, decoder_map = parts.probability, self.tiling.merge(parts.decoder_map)
            anomaly_map = self.model.fusion.map(decoder_map, self._memory_map(parts, banks))  # (12)
        inside = None if regions is None else at_size(regions, self.tiling.canvas(self.model.image_size))
        if inside is not None:
            anomaly_map = anomaly_map * inside.squeeze(1)
        score = self._score(probability, anomaly_map, inside)
        anomaly_map = anomaly_map.unsqueeze(1)
        if not is_size(size, anomaly_map.shape[-2:]):
            anomaly_map = F.interpolate(anomaly_map, size=size, mode="bilinear")
            if regions is not None:
                anomaly_map = anomaly_map * at_size(regions, (size[0], size[1]))
        return InferenceBatch(pred_score=score.unsqueeze(1), anomaly_map=anomaly_map)

    @torch.no_grad()
    def shot_features(self, images: torch.Tensor, regions: torch.Tensor | None = None) -> ShotFeatures:
        """Compute the memories' features of normalized images ``(B, 3, H, W)``, and which are in the region."""
        first = self.first_features(images, regions)
        if self.model.second_memory is None:
            return ShotFeatures(first.features, None, first.inside, None)
        second = self.second_features(images, regions)
        return ShotFeatures(first.features, second.features, first.inside, second.inside)

    @torch.no_grad()
    def first_features(self, images: torch.Tensor, regions: torch.Tensor | None = None) -> BankFeatures:
        """Compute what the prompted CLIP's memory keeps of normal images, see :meth:`shot_features`."""
        images, regions = self._within(images, regions)
        tiles = self._at_once(self.tiling.cut(images, self.model.tile_size))
        features = torch.cat([require_memory(self.model.encode_by_clip(some).memory_features) for some in tiles])
        return BankFeatures(self._by_image(features), self._patches_inside(regions, self.model.patch_grid))

    @torch.no_grad()
    def second_features(self, images: torch.Tensor, regions: torch.Tensor | None = None) -> BankFeatures:
        """Compute what the second memory keeps of normal images, see :meth:`shot_features`."""
        memory = require_memory(self.model.second_memory)
        images, regions = self._within(images, regions)
        if memory.copies > 1:  # never where there are tiles or a region
            return memory.shot_features(images)
        tiles = self._at_once(self.tiling.cut(images, self.model.tile_size))
        features = torch.cat([memory.features(some) for some in tiles])
        return BankFeatures(self._by_image(features), self._patches_inside(regions, memory.backbone.grid))

    def training_images(
        self, images: torch.Tensor, regions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prepare training images: of each a tile, drawn by chance, at twice the model's resolution.

        Args:
            images: Shape ``(B, 3, H, W)``, values in [0, 1].
            regions: As for :meth:`forward`.

        Returns:
            Tiles of shape ``(B, 3, 2 h, 2 w)``, and where they are in the region, shape ``(B, 1, 2 h, 2 w)``; ``None``
            if everywhere. A tile without any of the region is not drawn.
        """
        size = double(self.model.image_size)
        canvas = self.tiling.canvas(size)
        images = resize(images, canvas).clamp(0, 1)  # bicubic resizing overshoots
        if regions is None:
            regions = self.region(canvas)
        inside = None if regions is None else at_size(regions, canvas).expand(len(images), 1, *canvas)
        if self.tiling.number == 1:
            return images, inside
        chosen = torch.tensor([self._draw(None if inside is None else inside[index]) for index in range(len(images))])
        rows = chosen + self.tiling.number * torch.arange(len(images))
        return self.tiling.cut(images, size)[rows], None if inside is None else self.tiling.cut(inside, size)[rows]

    def _draw(self, inside: torch.Tensor | None) -> int:
        """Draw the number of a tile, of those with a part in the region of shape ``(1, H, W)``."""
        numbers = torch.arange(self.tiling.number)
        if inside is not None:
            tiles = self.tiling.cut(inside.unsqueeze(0), double(self.model.image_size))
            numbers = tiles.flatten(1).any(dim=1).nonzero().flatten().cpu()
        return int(numbers[torch.randint(len(numbers), ())])

    def _within(self, images: torch.Tensor, regions: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Resize images to the canvas and blank the pixels outside of the region; return the region at that size, too.

        The blank is 0, the mean of the images that CLIP was trained on.
        """
        size = self.input_size
        regions = self.region(size) if regions is None else at_size(regions, size)
        if self.tiling.number == 1 and regions is None:
            return images, None  # each backbone resizes for itself
        if not is_size(images.shape[-2:], size):
            images = resize_exactly(images, size)
        return images if regions is None else images * regions, regions

    def _at_once(self, tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split tiles into those that are encoded at once; all, in an export and where an image is its only tile."""
        whole = self.tiling.number == 1 or torch.compiler.is_compiling()
        return (tiles,) if whole else tiles.split(_TILES_AT_ONCE)

    def _inspect(self, tiles: torch.Tensor) -> Parts:
        """Encode tiles of shape ``(B * T, 3, h, w)``; of the decoder's features only the map outlives its tile."""
        rows = []
        for some in self._at_once(tiles):
            visual = self.model.encode_whole(some)
            rows.append(
                Parts(
                    self.model.abnormal_probability(visual),
                    self.model.decoder_map(visual),
                    visual.memory_features,
                    visual.second_features,
                )
            )
        return joined(rows) if len(rows) > 1 else rows[0]

    def _memory_map(self, parts: Parts, banks: Sequence[MemoryBank] | None) -> torch.Tensor | None:
        """Compute M_mem of whole images, shape ``(B, h, w)``; ``None`` without a memory."""
        if self.model.memory_bank is None:
            return None
        bank = self.model.memory_bank if banks is None else banks[0]
        features = require_memory(parts.memory_features)
        first = bank(self._by_image(features)).reshape(-1, features.shape[1])
        second: torch.Tensor | None = None
        if self.model.second_memory is not None:
            second = self._second_map(self.model.second_memory, require_memory(parts.second_features), banks)
        return self.model.fusion.memory(self.tiling.merge(self.model.resized_map(first, self.model.patch_grid)), second)

    def _second_map(
        self, memory: SecondMemory, features: torch.Tensor, banks: Sequence[MemoryBank] | None
    ) -> torch.Tensor:
        """Compute the second memory's map of whole images, shape ``(B, h, w)``, from the features of their tiles."""
        features = self._by_image(features)  # of all tiles together: the place in the image counts
        bank = memory.memory_bank if banks is None else banks[-1]
        distances = bank(features).reshape(-1, features.shape[1] // self.tiling.number)
        return self.tiling.merge(self.model.resized_map(distances, memory.backbone.grid))

    def _score(
        self, probability: torch.Tensor | None, anomaly_map: torch.Tensor, inside: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute the score (14) of each tile, of the merged map, and return the largest: shape ``(B,)``."""
        if inside is not None:
            inside = self.tiling.cut(inside.squeeze(1).expand_as(anomaly_map), self.model.image_size)
        tiles = self.tiling.cut(anomaly_map, self.model.image_size)
        if probability is None:
            scores = top_mean(tiles, self.model.fusion.top_share, inside)
        else:
            scores = self.model.fusion.score(probability, tiles, inside)
        return scores if self.tiling.number == 1 else scores.unflatten(0, (-1, self.tiling.number)).amax(dim=1)

    def _by_image(self, features: torch.Tensor) -> torch.Tensor:
        """Join the patches of the tiles of an image: ``(B * T, n, D)`` becomes ``(B, T * n, D)``."""
        number = self.tiling.number
        return features if number == 1 else features.unflatten(0, (-1, number)).flatten(1, 2)

    def _patches_inside(self, regions: torch.Tensor | None, grid: tuple[int, int]) -> torch.Tensor | None:
        """Return which patches have a part in the region, shape ``(B, T * n)``."""
        if regions is None:
            return None
        inside = at_size(self.tiling.cut(regions, self.model.tile_size), grid).flatten(1).unsqueeze(-1)
        return self._by_image(inside).squeeze(-1)


def _restore_tiling(large: LargeImages, state_dict: Mapping[str, Any], prefix: str, *_args: object) -> None:
    """Load-state-dict pre-hook: judge images by the tiles that the memory is of."""
    if isinstance(grid := state_dict.get(f"{prefix}tile_grid"), torch.Tensor):
        large.set_tiling(Tiling(*grid.tolist()))
