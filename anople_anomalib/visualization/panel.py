# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The panel of a single image."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .maps import TITLES
from .passes import Evidence
from .samples import Sample
from .style import ANOMALOUS, PREDICTION, SMALL, TRUTH, label_row, new_grid, range_of, show_heat, show_image, show_mask


def draw_panel(sample: Sample, evidence: Evidence | None = None, index: int = 0) -> Figure:
    """Show one image and what was found in it: a row of Figures 9 and 10, with a look behind it.

    How to read it: the image; its ground truth if it is known (sky blue outline); the maps of the decoder and of the
    memory, each on a scale of its own that is given below it; the normalized anomaly map from 0 to 1; and the pixels
    above the threshold (orange). Below is the image-level score; 0.5 is the threshold.

    Args:
        sample: The image.
        evidence: What the model saw in the image's batch; ``None`` leaves decoder and memory out.
        index: Place of the image in the batch.

    Returns:
        The figure.
    """
    maps = {} if evidence is None else {"decoder": evidence.decoder, "memory": evidence.memory}
    heats = {name: values[index].float().numpy() for name, values in maps.items() if values is not None}
    first = 1 if sample.truth is None else 2  # column of the first map
    figure, grid = new_grid(1, first + len(heats) + (sample.heat is not None) + 1)
    axes = grid[0]
    show_image(axes[0], sample.image, "image")
    label_row(axes[0], sample.name)
    if sample.truth is not None:
        show_image(axes[1], sample.image, "ground truth")
        show_mask(axes[1], sample.image, sample.truth, TRUTH)
    for place, (name, heat) in zip(axes[first:], heats.items(), strict=False):
        _show_on_own_scale(place, sample.image, heat, TITLES[name])
    if sample.heat is not None:
        show_heat(axes[-2], sample.image, sample.heat, (0, 1), "anomaly map")
    show_image(axes[-1], sample.image, "above threshold")
    show_mask(axes[-1], sample.image, sample.predicted, PREDICTION, fill=True)
    show_mask(axes[-1], sample.image, sample.truth, TRUTH)
    axes[-1].set_xlabel(sample.verdict, fontsize=SMALL, color=ANOMALOUS if sample.is_wrong else "black")
    return figure


def _show_on_own_scale(axes: Axes, image: np.ndarray, heat: np.ndarray, title: str) -> None:
    """Draw a heat map from its smallest to its largest value, which are written below."""
    low, high = range_of(heat)
    show_heat(axes, image, heat, (low, high), title)
    axes.set_xlabel(f"{low:.3g} to {high:.3g}", fontsize=SMALL)
