# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The painter of verdicts: image, heat map and outline, with score and verdict below.

What is drawn are the pixels that were judged, from memory: the file may hold another part by now.
"""

import logging
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem, PredictDataset
from anomalib.data.datasets import AnomalibDataset
from anomalib.visualization import Visualizer
from lightning.pytorch import LightningModule, Trainer
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import binary_erosion
from torch.utils.data import DataLoader

from anople_anomalib.data.image_series import ImageSeries, series_in
from anople_anomalib.data.sampling import relative_names
from anople_anomalib.metrics.per_category import RawScoreKeeper, callback_of
from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.palette import ORANGE, SKY_BLUE

from .predictions import PredictionTable, frame_name

logger = logging.getLogger(__name__)

HEAT = "viridis"
"""Color map of every heat map: its lightness grows evenly, in gray print, too."""
_HEAT_SHARE = 0.7
_SIDE = 256  # pixels, width and height of one of the pictures side by side
_OUTLINE = 2  # pixels
_CAPTION_HEIGHT, _FONT_SIZE = 28, 18
_COMPRESSION = 3  # of PNG: a tenth larger than by Pillow's 6, in less than half the time
_GOOD, _BAD, _UNKNOWN = "#1b7837", "#b2182b", "#444444"


def with_heat(photo: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Put a heat map over a photograph.

    Args:
        photo: Shape ``(H, W, 3)``.
        heat: Shape ``(h, w)``, values in [0, 1]; resized to the photograph.
    """
    colors = heat_colors(resized_heat(np.nan_to_num(heat), (photo.shape[1], photo.shape[0])))
    return (_HEAT_SHARE * colors + (1 - _HEAT_SHARE) * photo).astype(np.uint8)


def resized_heat(heat: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a heat map to a width and a height."""
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def heat_colors(heat: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the colors of a heat map of shape ``(h, w)``, values in [0, 1]: shape ``(h, w, 3)``, of 255."""
    return colormaps[HEAT](heat)[..., :3] * 255


def with_outline(photo: NDArray[np.uint8], mask: NDArray[np.bool_], color: str) -> NDArray[np.uint8]:
    """Outline a mask on a photograph.

    Args:
        photo: Shape ``(H, W, 3)``.
        mask: Shape ``(h, w)``, true inside; resized to the photograph.
        color: Color of the outline.
    """
    resized = Image.fromarray(mask).resize((photo.shape[1], photo.shape[0]), Image.Resampling.NEAREST)
    inside, drawn = np.asarray(resized), photo.copy()
    drawn[inside & ~binary_erosion(inside, iterations=_OUTLINE)] = ImageColor.getrgb(color)
    return drawn


def stretched(image: torch.Tensor) -> torch.Tensor:
    """Return an image as it is where its values are in [0, 1]; a normalized one is stretched to them."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if low < 0 or high > 1 else image


def draw_verdict(item: ImageItem, image: torch.Tensor) -> Image.Image:
    """Draw an image, its ground truth if there is one, the heat map, and what is above the threshold.

    The heat map is on the scale from 0 to 1, with the threshold at 0.5: a good part does not glow.

    Args:
        item: The prediction, with maps on that scale.
        image: The pixels that were judged, shape ``(3, H, W)``, values in [0, 1].
    """
    pixels = torch.nan_to_num(image.detach().float()).clamp(0, 1).mul(255).byte().permute(1, 2, 0).cpu().numpy()
    photo = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    drawn = {"image": photo}
    if item.gt_mask is not None:
        drawn["ground truth"] = with_outline(photo, _plane(item.gt_mask) > 0, SKY_BLUE)
    if item.anomaly_map is not None:
        drawn["heat map"] = with_heat(photo, _plane(item.anomaly_map))
    if item.pred_mask is not None:
        drawn["above the threshold"] = with_outline(photo, _plane(item.pred_mask) > 0, ORANGE)
    return _with_caption(np.concatenate(list(drawn.values()), axis=1), list(drawn), item)


class HeatMaps(Visualizer):
    """Visualizer of :func:`draw_verdict`, with a file of its own for every image.

    Files are named by their place below the folder that all images of the run share, so that images of the same name
    in different folders do not overwrite each other; images without a path are numbered.

    Args:
        output_dir: Folder of the images; ``None`` for ``images`` in the results of the run, with the number of its
            table.

    Attributes:
        output_dir: The same; of the last run where none was given.
    """

    def __init__(self, output_dir: str | Path | None = None) -> None:
        super().__init__()
        self.output_dir, self._given = output_dir, output_dir
        self._names: dict[str, str] = {}
        self._frames = count(1)
        self._series: ImageSeries | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the images of a test."""
        del pl_module
        self._start(trainer.test_dataloaders)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the images of a prediction."""
        del pl_module
        self._start(trainer.predict_dataloaders)

    def _start(self, loaders: object) -> None:
        self._names, self._frames, self._series = _names_in(loaders), count(1), series_in(loaders)
        self.output_dir = self._given

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ImageBatch,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Draw and save the images of a batch."""
        del pl_module, outputs, args, kwargs
        folder = self.folder_in(trainer)
        keeper = callback_of(trainer, RawScoreKeeper)
        shown = None if keeper is None else keeper.images
        for item, image in zip(batch, map(stretched, images_of(batch)) if shown is None else shown, strict=True):
            file = folder / self._name_of(item)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                draw_verdict(item, image).save(file, format="PNG", compress_level=_COMPRESSION)
            except OSError as error:  # the verdict itself stands in the table
                logger.warning("The picture '%s' cannot be written: %s", file, error)

    on_predict_batch_end = on_test_batch_end

    def folder_in(self, trainer: Trainer) -> Path:
        """Return the folder of a run's pictures."""
        if self.output_dir is None:
            table = callback_of(trainer, PredictionTable)
            self.output_dir = Path(trainer.default_root_dir) / f"images{'' if table is None else table.number}"
        return Path(self.output_dir)

    def _name_of(self, item: ImageItem) -> str:
        """Return where the picture of an image goes, below the folder of all pictures."""
        path = item.image_path or frame_name(self._frames)
        if self._series is not None and item.image_path:
            path = self._series.name_of(path)
        else:
            path = self._names.get(path, Path(path).name)
        return path if path.lower().endswith(".png") else f"{path}.png"


def _with_caption(drawn: NDArray[np.uint8], titles: list[str], item: ImageItem) -> Image.Image:
    """Add titles above the pictures, and score and verdict below them."""
    canvas = ImageOps.expand(Image.fromarray(drawn), (0, _CAPTION_HEIGHT, 0, _CAPTION_HEIGHT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    width = canvas.width / len(titles)
    for number, title in enumerate(titles):
        draw.text(((number + 0.5) * width, _CAPTION_HEIGHT / 2), title, "black", font, anchor="mm")
    text, color = _verdict(item)
    draw.text((6, canvas.height - _CAPTION_HEIGHT / 2), text, color, font, anchor="lm")
    return canvas


def _verdict(item: ImageItem) -> tuple[str, str]:
    """Return the line of text below an image and its color."""
    score = "" if item.pred_score is None else f"score {float(item.pred_score):.3f}"
    if item.pred_label is None or (item.pred_score is not None and not torch.isfinite(item.pred_score).all()):
        return score, _UNKNOWN
    verdict, color = ("NOT OK", _BAD) if bool(item.pred_label) else ("OK", _GOOD)
    return f"{verdict}   {score}", color


def _plane(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Return a map or mask as an array of shape ``(h, w)``."""
    return tensor.detach().reshape(tensor.shape[-2:]).float().cpu().numpy()


def _names_in(loaders: object) -> dict[str, str]:
    """Return a name for every image of a run, by its path."""
    paths: list[str] = []
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        dataset = loader.dataset if isinstance(loader, DataLoader) else None
        if isinstance(dataset, AnomalibDataset):
            paths += map(str, dataset.samples.image_path)
        elif isinstance(dataset, PredictDataset):
            paths += map(str, dataset.image_filenames)
    return dict(zip(paths, relative_names(paths), strict=True))
