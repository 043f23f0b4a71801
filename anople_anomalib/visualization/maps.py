# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The maps that make an anomaly map: decoder, memory and their fusion (equations (12) and (13) of the AnoPLe paper)."""

import numpy as np
from anomalib.data import ImageBatch
from matplotlib.figure import Figure

from anople_anomalib.anople import AnoPLe

from .passes import Evidence, evidence_of
from .samples import Sample, head, samples_of
from .style import TRUTH, add_colorbar, label_row, new_grid, range_of, show_heat, show_image, show_mask

TITLES = {"decoder": r"decoder $\hat{M}$", "memory": r"memory $M_{mem}$", "fused": r"fused $M_q$"}
UNITS = {"decoder": "abnormal probability", "memory": "cosine distance / 2", "fused": "harmonic fusion"}


def draw_maps(model: AnoPLe, batch: ImageBatch, max_rows: int = 6) -> Figure:
    """Show the decoder's map, the memory's map and their fusion side by side: the right part of Figure 2, in images.

    How to read it: every row is an image, outlined with its ground truth where that is known (sky blue). The decoder
    knows what simulated defects look like; the memory knows what the normal shots look like; the fusion is large
    where both are. A column has one scale for all rows, given below it: the maps are those of the equations, before
    anomalib's normalization. The memory's distances are much smaller than probabilities, and the fusion follows the
    smaller of the two.

    Args:
        model: A trained model.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        max_rows: Largest number of images.

    Returns:
        The figure. Without a memory there is only the decoder's map.
    """
    batch = head(batch, max_rows)
    samples, evidence = samples_of([batch]), evidence_of(model, batch)
    names = ["decoder"] if evidence.memory is None else ["decoder", "memory", "fused"]
    figure, grid = new_grid(len(samples), 1 + len(names))
    for axes, sample in zip(grid[:, 0], samples, strict=True):
        show_image(axes, sample.image)
        show_mask(axes, sample.image, sample.truth, TRUTH)
        label_row(axes, sample.name)
    grid[0, 0].set_title("image, ground truth", fontsize=9)
    for column, name in zip(grid[:, 1:].T, names, strict=True):
        _draw_column(figure, column, name, samples, evidence)
    return figure


def _draw_column(figure: Figure, column: np.ndarray, name: str, samples: list[Sample], evidence: Evidence) -> None:
    """Draw one map of every sample, on one scale."""
    heats = getattr(evidence, name).float().numpy()
    limits = range_of(heats)
    for axes, sample, heat in zip(column, samples, heats, strict=True):
        show_heat(axes, sample.image, heat, limits)
    column[0].set_title(TITLES[name], fontsize=9)
    add_colorbar(figure, column[:, np.newaxis], limits, UNITS[name])
