# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the shots decide before a training run: the tiles of large images, and the region of interest."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule

from anople_anomalib.method.torch_model import AnoPLeModel

from .masks import image_size_of, polygon_mask, read_region, region_file
from .region import at_size
from .tiling import Tiling, automatic_tiling

logger = logging.getLogger(__name__)


class LargeImageTraining(LightningModule):
    """Tiles and region, mixed into the model, which has the hyper-parameters ``tiles`` and ``roi``.

    Attributes:
        roi_folder: Folder with a mask per image, where each has its own.
    """

    model: AnoPLeModel
    roi_folder: str | None = None

    @abstractmethod
    def set_tiling(self, tiling: Tiling) -> None:
        """Judge images by these tiles."""

    @property
    def training_size(self) -> tuple[int, int]:
        """Height and width at half of which the images of a training run are seen, all tiles together."""
        return self.model.tiling.canvas(self.model.image_size)

    def adapt_to(self, paths: Sequence[str]) -> bool:
        """Fix tiles and region for a training run; a checkpoint has both, so that later runs decide nothing.

        Args:
            paths: Files of the shots; empty where they are not known.

        Returns:
            Whether images have another size now.

        Raises:
            ValueError: If they cannot be fixed without a shot, or a mask does not fit.
            FileNotFoundError: If a mask is not there.
        """
        before, tiles = self.model.input_size, self.hparams["tiles"]
        sizes = {Path(path): image_size_of(Path(path)) for path in paths} if tiles or self.hparams["roi"] else {}
        if tiles == "auto":
            if not sizes:
                msg = "tiles='auto' looks at the shots of a datamodule: give tiles=[rows, columns] for data loaders."
                raise ValueError(msg)
            tiling = automatic_tiling(sizes.values(), self.model.tile_size)
            logger.info("Tiles: %d x %d, for images of the size of the shots.", tiling.rows, tiling.columns)
        else:
            tiling = Tiling(*tiles) if tiles else Tiling()
        if tiling != self.model.tiling:
            self.set_tiling(tiling)
        self._set_region(sizes)
        return self.model.input_size != before

    def regions_of(self, paths: Sequence[str] | None) -> torch.Tensor | None:
        """Return the regions of images that have a region each.

        Args:
            paths: Their files.

        Returns:
            Shape ``(B, 1, H, W)``, dtype bool, at the size that the model takes; ``None`` where all have the same.

        Raises:
            ValueError: If the images have no files, or a mask does not fit.
            FileNotFoundError: If a mask is not there.
        """
        if self.roi_folder is None:
            return None
        if not paths:
            msg = f"roi='{self.roi_folder}' has a mask per image, by its name: images without a file have none."
            raise ValueError(msg)
        folder = Path(self.roi_folder)
        regions = []
        for path in map(Path, paths):
            mask = read_region(region_file(folder, path), {path: image_size_of(path)})
            regions.append(at_size(mask[None, None], self.model.input_size))
        return torch.cat(regions).to(self.device)

    def _set_region(self, sizes: dict[Path, tuple[int, int]]) -> None:
        roi, self.roi_folder, size = self.hparams["roi"], None, self.model.input_size
        if roi is None:
            self.model.region.set(None)
        elif not isinstance(roi, str):
            self.model.region.set(polygon_mask(roi, size))
        elif Path(roi).is_dir():
            self.model.region.set(None)
            self.roi_folder = roi
            for path in sizes:
                read_region(region_file(Path(roi), path), {path: sizes[path]})
        else:
            self.model.region.set(at_size(read_region(Path(roi), sizes)[None, None], size)[0, 0])
