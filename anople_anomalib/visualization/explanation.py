# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Why a place counts as anomalous: the nearest normal patch of the memory, and the image that it came from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from anople_anomalib.anople import AnoPLe
from anople_anomalib.training.shots import TrainingShots
from anople_anomalib.utils.files import relative_names

from .inside import MEMORY_TITLE, images_on
from .samples import Sample, head, pixels_of, samples_of
from .style import ANOMALOUS, NORMAL, SMALL, label_columns, new_grid, show_heat, show_image

CONTEXT = 3  # patches, width and height of an enlarged window around the patch


class Shot(NamedTuple):
    """An image of the memory: its file below the folder of all shots, and pixels, shape ``(H, W, 3)``, in [0, 1]."""

    name: str
    image: np.ndarray


class Match(NamedTuple):
    """The most anomalous patch of an image and its nearest normal patch."""

    distances: np.ndarray  # distance of every patch to its nearest normal one, equation (13), shape ``(h, w)``
    patch: tuple[int, int]  # row and column of the most anomalous patch in the grid
    shot: int  # index of the shot that the nearest normal patch came from
    normal_patch: tuple[int, int]  # row and column of that patch in the shot's grid

    @property
    def distance(self) -> float:
        """Distance between the two patches, in [0, 1]."""
        return float(self.distances[self.patch])


def shots_of(model: AnoPLe, datamodule: AnomalibDataModule) -> list[Shot]:
    """Return the images that a model was trained on, in the order of its memory.

    Args:
        model: A trained model.
        datamodule: The datamodule of its training run; set up here if it is not yet.

    Raises:
        ValueError: If the datamodule has other shots than the model.
    """
    if not hasattr(datamodule, "train_data"):
        datamodule.prepare_data()
        datamodule.setup()
    drawn = TrainingShots(datamodule, model.hparams["k_shot"], model.hparams["seed"], model.image_size)
    if model.drawn_samples and drawn.names != model.drawn_samples:
        msg = (
            f"The model was trained on {model.drawn_samples}, this datamodule gives {drawn.names}: pass the datamodule "
            "of its training run."
        )
        raise ValueError(msg)
    return [Shot(name, pixels_of(drawn.image(number)[0])) for number, name in enumerate(relative_names(drawn.paths))]


@torch.no_grad()
def nearest_normal(model: AnoPLe, batch: ImageBatch, num_shots: int) -> list[Match]:
    """Find the most anomalous patch of every image and its nearest normal one.

    Args:
        model: A trained model.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        num_shots: Number of images that the memory was built from.

    Raises:
        ValueError: If the model has no memory, or its rows cannot be traced back to images.
    """
    bank, (height, width) = model.model.memory_bank, model.model.clip.visual.grid
    if bank is None:
        msg = "This model has no memory (memory.enabled false): there is no nearest normal patch."
        raise ValueError(msg)
    if bank.coreset_sampling_ratio < 1 or len(bank) != num_shots * height * width:
        msg = (
            f"The memory holds {len(bank)} patches, not {height * width} of each of {num_shots} shots: pass images "
            "that were added to it as further shots, in their order; a memory that was reduced to a coreset cannot be "
            "traced back to images."
        )
        raise ValueError(msg)
    features = model.model.first_features(images_on(model, batch)).features
    distances, rows = bank(features).float().cpu(), bank.nearest(features).cpu()
    worst = distances.argmax(dim=1)
    matches = []
    for grid, row, patch in zip(distances.numpy(), rows.tolist(), worst.tolist(), strict=True):
        shot, normal_patch = divmod(row[patch], height * width)  # the bank's rows are ordered by shot, then by patch
        matches.append(Match(grid.reshape(height, width), divmod(patch, width), shot, divmod(normal_patch, width)))
    return matches


def draw_nearest_normal(model: AnoPLe, batch: ImageBatch, shots: Sequence[Shot], max_rows: int = 4) -> Figure:
    """Show why a place counts as anomalous: equation (13) in images; the paper has no such figure.

    How to read it: every row is an image with its ground truth where that is known (sky blue), and the distance of
    each patch to the memory. The vermillion square is the patch that is furthest from everything normal; it is
    enlarged with its neighbors. The blue square, enlarged beside it, is the most similar patch of the normal shots, in
    the shot on the right. If the two look alike to you, the model is too strict, or that kind of normal is missing
    among the shots: add an image of it.

    Args:
        model: A trained model.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        shots: The images of the memory in its order, see :func:`shots_of`; then those that were added to it later.
        max_rows: Largest number of images.

    Raises:
        ValueError: As :func:`nearest_normal`.
    """
    batch = head(batch, max_rows)
    samples, matches = samples_of([batch]), nearest_normal(model, batch, len(shots))
    limits = (0.0, max(float(match.distances.max()) for match in matches))
    figure, grid = new_grid(len(samples), 5)
    for axes, sample, match in zip(grid, samples, matches, strict=True):
        _draw_row(axes, sample, match, shots[match.shot], limits)
    label_columns(grid, ("image", MEMORY_TITLE, "furthest patch", "nearest normal", "shot of the memory"))
    return figure


def _draw_row(axes: Sequence[Axes], sample: Sample, match: Match, shot: Shot, limits: tuple[float, float]) -> None:
    """Draw the image, the distances, both patches, and the shot."""
    grid = match.distances.shape
    sample.show_named(axes[0])
    show_heat(axes[1], sample.image, match.distances, limits)
    show_image(axes[2], sample.image)
    show_image(axes[3], shot.image)
    show_image(axes[4], shot.image)
    axes[2].set_xlabel(f"distance {match.distance:.3f}", fontsize=SMALL)
    axes[4].set_xlabel(shot.name, fontsize=SMALL)
    for place in axes[:3]:
        _frame(place, sample.image, grid, match.patch, ANOMALOUS)
    for place in axes[3:]:
        _frame(place, shot.image, grid, match.normal_patch, NORMAL)
    _zoom(axes[2], sample.image, grid, match.patch)
    _zoom(axes[3], shot.image, grid, match.normal_patch)


def _frame(axes: Axes, image: np.ndarray, grid: tuple[int, int], patch: tuple[int, int], color: str) -> None:
    """Draw a square around a patch."""
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    corner = (patch[1] * width, patch[0] * height)
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="white", linewidth=3))
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=1.6))


def _zoom(axes: Axes, image: np.ndarray, grid: tuple[int, int], patch: tuple[int, int]) -> None:
    """Enlarge the surroundings of a patch; at the border the window is moved inside."""
    starts = [min(max(p - CONTEXT // 2, 0), max(n - CONTEXT, 0)) for p, n in zip(patch, grid, strict=True)]
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    axes.set_xlim(starts[1] * width, (starts[1] + CONTEXT) * width)
    axes.set_ylim((starts[0] + CONTEXT) * height, starts[0] * height)
