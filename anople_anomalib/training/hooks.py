# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How AnoPLe is trained inside anomalib's engine: the trainer's side of it, without maths."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from anomalib.data import Batch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from anople_anomalib.backbones.outputs import ShotFeatures
from anople_anomalib.method.anomaly_simulation import PixelAnomalySimulator
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.utils.files import require_shape
from anople_anomalib.utils.transforms import transform_of

from .checkpoints import CheckpointHooks
from .finalization import TrainerArguments, training_ends
from .held_out import HeldOutShots
from .memory import ShotMemory
from .shots import LoadedShots, TrainingShots
from .steps import simulated_views

logger = logging.getLogger(__name__)

MIN_GAIN = 0.005
"""AUROC that each look must add to the one before, the first to the memories alone: less is not told from chance."""


class FewShotTraining(CheckpointHooks):
    """Lightning hooks for training on k shots, mixed into the model.

    Shots are drawn before training and replace the training set until its end (:mod:`.run`). Validation runs
    once, after the last step; whatever depends on the final weights is computed then, by ``finalize``, so that the
    checkpoint of the last epoch holds it.

    What the shots decide before a training run is here, too: the tiles of large images, and the region of interest. The
    model defines ``set_tiles()`` and the hyper-parameters ``k_shot``, ``seed``,
    ``tiles`` and ``roi``.

    Attributes:
        roi_folder: Folder with a mask per image, where each has its own region.
        roi_shape: Height and width of the images that the one region of all was given for, where they are known.
        epochs: Number of epochs where the trainer is given none.
        training_seed: Seed of the simulated anomalies and of the order of the shots.
        class_names: Names of the parts.
        drawn_samples: File names of the shots, by category.
        shots: The shots during a training run on a datamodule, else ``None``.
        held_out: Their predictions by the memory of the others, where they are validated on, else ``None``.
        shot_memory: How the memories are filled during a training run, else ``None``.
        stop_early: Whether teaching ends where prompts and decoder gain nothing, see :meth:`on_train_batch_end`.
        teaching: The sentence on an early end of teaching; empty where there was none.
    """

    model: AnoPLeModel
    simulator: PixelAnomalySimulator | None
    pre_processor: nn.Module | None
    class_names: list[str]
    drawn_samples: dict[str, list[str]]
    shots: TrainingShots | LoadedShots | None = None
    held_out: HeldOutShots | None = None
    shot_memory: ShotMemory | None = None
    stop_early: bool
    teaching: str = ""
    roi_folder: str | None = None
    roi_shape: list[int] | None = None
    epochs: int
    training_seed: int

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the model sees."""
        return self.model.image_size

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that the pre-processor resizes to: those of the backbone that sees more."""
        return self.model.input_size

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments for the trainer: the default number of epochs, which gives way to the user's."""
        return TrainerArguments(self.epochs)

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """After 1, 2, 4, 8 ... epochs, end teaching where it adds nothing more on views of the shots.

        The look is :meth:`finalize`: it fills the memories and weighs the parts, so that prompts and decoder that gain
        nothing have weight 0 from then on. No image but the shots is looked at.
        """
        done = self.trainer.current_epoch + 1
        if self.stop_early and self.trainer.is_last_batch and done.bit_count() == 1 and not training_ends(self.trainer):
            before = 0.0 if self.shot_memory is None else self.shot_memory.gain
            self.finalize()
            gain = 0.0 if self.shot_memory is None else self.shot_memory.gain
            if gain - before < MIN_GAIN:
                self.trainer.should_stop = True
                added = "more of it adds nothing" if gain > 0 else "prompts and decoder add nothing, and have no weight"
                time = f"{done} epoch{'s' if done > 1 else ''}"
                self.teaching = f"Teaching ended after {time}: on simulated defects of the shots, {added}."
        super().on_train_batch_end(outputs, batch, batch_idx)

    def on_train_end(self) -> None:
        """Say why teaching ended early, if it did."""
        super().on_train_end()
        if self.teaching:
            logger.info(self.teaching)

    def on_test_end(self) -> None:
        """Log where the images of the test are."""
        folder = getattr(getattr(self, "visualizer", None), "output_dir", None)  # known from the first image on
        if folder is not None:
            logger.info("Heat maps: %s", folder)

    on_predict_end = on_test_end

    def simulated_views(
        self, images: torch.Tensor, regions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views and masks of damaged images, see :func:`.steps.simulated_views`."""
        return simulated_views(self.model, self.simulator, transform_of(self.pre_processor), images, regions)

    @torch.no_grad()
    def finalize(self) -> None:
        """Compute the text features and fill the memory banks, with the final prompts."""
        self.model.refresh_text_features()
        self._remember_shots()
        self.model.is_fitted.fill_(value=True)

    @property
    def is_finalized(self) -> bool:
        """Whether text features and memory belong to the present prompts."""
        return bool(self.model.is_fitted)

    def _remember_shots(self) -> None:
        """Fill the memory with the shots of the present training run, and hold them out where they are validated on."""
        transform, shots = transform_of(self.pre_processor), self.shots
        features: ShotFeatures | None = None

        def region_of(number: int) -> torch.Tensor | None:
            """Return the region of a shot where each has its own."""
            return None if shots is None else self.regions_of(shots.paths[number : number + 1])

        if self.model.memory_bank is not None:
            shots = shots or LoadedShots(cast("Iterable[Batch]", self.trainer.train_dataloader))
            if self.shot_memory is None:
                self.shot_memory = ShotMemory(self.model, shots, transform, region_of)
            features = self.shot_memory.fill()
        if shots is not None and shots.validate:
            self.held_out = HeldOutShots(self.model, shots, features, transform)
            if isinstance(self.post_processor, ExactPostProcessor):
                self.post_processor.spreads = self.held_out.spreads(region_of)

    # ---------------------------------------------------------------------------------------- tiles and region

    @property
    def training_size(self) -> tuple[int, int]:
        """Height and width at half of which the images of a training run are seen, all tiles together."""
        size = self.model.image_size
        return size if self.model.tiling is None else self.model.tiling.canvas(size)

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
        if self.model.tiling is None:
            return False
        from anople_anomalib.data.image_reading import image_size_of
        from anople_anomalib.tiles.tiling import Tiling, automatic_tiling

        before, tiles = self.model.input_size, self.hparams["tiles"]
        sizes = {Path(path): image_size_of(path) for path in paths} if tiles or self.hparams["roi"] else {}
        if tiles == "auto":
            if not sizes:
                msg = "tiles='auto' looks at the shots of a datamodule: give tiles=[rows, columns] for data loaders."
                raise ValueError(msg)
            tiling = automatic_tiling(sizes.values(), self.model.tile_size)
            logger.info("Tiles: %d x %d, for images of the size of the shots.", tiling.rows, tiling.columns)
        else:
            tiling = Tiling(*tiles) if tiles else Tiling()
        if tiling != self.model.tiling:
            self.set_tiles([tiling.rows, tiling.columns])
        self._set_region(sizes)
        return self.model.input_size != before

    def regions_of(self, paths: Sequence[str] | None) -> torch.Tensor | None:
        """Return the regions of image files that have a region each, ``None`` where all have the same.

        Returns:
            Shape ``(B, 1, H, W)``, dtype bool, at the size that the model takes.

        Raises:
            ValueError: If the images have no files, or a mask does not fit.
            FileNotFoundError: If a mask is not there.
        """
        if self.roi_folder is None:
            return None
        if not paths:
            msg = f"roi='{self.roi_folder}' has a mask per image, by its name: images without a file have none."
            raise ValueError(msg)
        from anople_anomalib.data.image_reading import image_size_of
        from anople_anomalib.tiles.region import at_size, read_region, region_file

        folder = Path(self.roi_folder)
        regions = []
        for path in map(Path, paths):
            mask = read_region(region_file(folder, path), {path: image_size_of(path)})
            regions.append(at_size(mask[None, None], self.model.input_size))
        return torch.cat(regions).to(self.device)

    def require_region(self, image: str | Path, size: Sequence[int]) -> None:
        """Refuse an image, by its file (``""`` for one in memory), height and width, that the region does not fit.

        Raises:
            ValueError: If it has another shape than the images that were taught, or than its own mask.
            FileNotFoundError: If it has no mask.
        """
        if self.roi_folder is not None:
            from anople_anomalib.tiles.region import read_region, region_file

            read_region(region_file(Path(self.roi_folder), Path(image)), {Path(image): (size[0], size[1])})
        elif self.roi_shape is not None:
            require_shape(size, self.roi_shape, image)

    def _set_region(self, sizes: dict[Path, tuple[int, int]]) -> None:
        from anople_anomalib.tiles.region import at_size, polygon_mask, read_region, region_file

        roi, self.roi_folder, size = self.hparams["roi"], None, self.model.input_size
        self.roi_shape = None
        if roi is None:
            self.model.region.set(None)
        elif not isinstance(roi, str):
            self.model.region.set(polygon_mask(roi, size))
            self.roi_shape = next(map(list, sizes.values()), None)
            for path in sizes:
                self.require_region(path, sizes[path])
        elif Path(roi).is_dir():
            self.model.region.set(None)
            self.roi_folder = roi
            for path in sizes:
                read_region(region_file(Path(roi), path), {path: sizes[path]})
        else:
            mask = read_region(Path(roi), sizes)
            self.model.region.set(at_size(mask[None, None], size)[0, 0])
            self.roi_shape = list(mask.shape)
