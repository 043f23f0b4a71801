# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Colors and grids of all figures, and how an image, a heat map or a mask is put on axes.

Figures are made without pyplot: nothing global is set, and no figure stays open.
"""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from anople_anomalib.deployment.painting import HEAT
from anople_anomalib.utils.palette import BLUE, ORANGE, SKY_BLUE, VERMILLION

NORMAL, ANOMALOUS = BLUE, VERMILLION
TRUTH, PREDICTION = SKY_BLUE, ORANGE
"""Outlines of the ground truth and of the prediction."""
SMALL = 8  # points
CELL = 1.9  # inches, width and height of one image in a grid
HEAT_ALPHA = 0.75


def new_grid(rows: int, columns: int, cell: float = CELL, words: float = 0.15) -> tuple[Figure, np.ndarray]:
    """Make a figure with axes of shape ``(rows, columns)``; ``cell`` and ``words`` are inches of each and its words."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(columns * cell + 0.4, rows * (cell + words) + 0.5), dpi=110, layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False)


def new_chart(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of so many inches with one pair of axes for numbers."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.3)
    return figure, axes


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Put an image of shape ``(H, W, 3)``, values in [0, 1], on axes, without ticks."""
    axes.imshow(image, extent=_extent(image))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def show_heat(axes: Axes, image: np.ndarray, heat: np.ndarray, limits: tuple[float, float]) -> None:
    """Stretch a heat map of any shape over the gray image; ``limits`` are the darkest and the lightest value."""
    show_image(axes, image.mean(axis=2, keepdims=True).repeat(3, axis=2))
    over = axes.imshow(heat, HEAT, alpha=HEAT_ALPHA, extent=_extent(image), interpolation="bilinear")
    over.set_clim(*limits)


def show_mask(axes: Axes, image: np.ndarray, mask: np.ndarray | None, color: str, fill: bool = False) -> None:
    """Outline a mask of any shape on an image that is already there, and tint its inside where ``fill`` says so."""
    if mask is None or not mask.any():
        return
    left, right, bottom, top = _extent(image)
    padded = np.pad(mask.astype(float), 1)  # closes outlines at the border
    height, width = mask.shape
    x = left + (np.arange(-1, width + 1) + 0.5) * (right - left) / width
    y = top + (np.arange(-1, height + 1) + 0.5) * (bottom - top) / height
    if fill:
        axes.contourf(x, y, padded, levels=[0.5, 1.5], colors=[color], alpha=0.4)
    axes.contour(x, y, padded, levels=[0.5], colors=[color], linewidths=1.2)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def label_columns(grid: np.ndarray, titles: Iterable[str]) -> None:
    """Write a title above every column of a grid of axes."""
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=SMALL + 1)


def add_colorbar(figure: Figure, columns: np.ndarray, limits: tuple[float, float], label: str) -> None:
    """Add a color bar below the axes of heat maps of the same limits, shape ``(rows, columns)``."""
    colors = ScalarMappable(Normalize(*limits), HEAT)
    shape = {"fraction": 0.06, "aspect": 14 * columns.shape[1], "pad": 0.02}
    bar = figure.colorbar(colors, ax=columns, location="bottom", **shape)
    bar.ax.locator_params(axis="x", nbins=3)
    bar.ax.tick_params(labelsize=SMALL - 1)
    bar.set_label(label, fontsize=SMALL)


def _extent(image: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of an image in its own pixels."""
    height, width = image.shape[:2]
    return (0, width, height, 0)
