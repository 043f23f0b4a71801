# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Curves of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anople_anomalib.utils.palette import MARKERS, PALETTE

from .style import SMALL

PREFIX, SUFFIX = "train_", "loss"
TOTAL = "train_loss"


def draw_training_curves(metrics: pd.DataFrame | Mapping[str, Sequence[float]] | str | Path) -> Figure:
    """Show the loss of every epoch and its terms, equations (7) to (11); the paper has no such figure.

    How to read it: the black line is the loss L of equation (11), the others are the terms that it is the sum of, by
    epoch. A different anomaly is simulated in every step, and an epoch of one shot is one step: the curves of a 1-shot
    run jump about. The thin lines are the values themselves, the thick ones their mean over the last tenth of
    the epochs. A term that stays flat has nothing to teach; a total that still falls asks for more epochs.

    Args:
        metrics: ``metrics.csv`` of Lightning's ``CSVLogger``, a table of that form, or a mapping from the names of
            the losses (``train_loss``, ``train_pixel_loss``, ...) to their values per epoch.

    Returns:
        The figure.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no training loss in it.
    """
    table = _table(metrics)
    figure = Figure(figsize=(5.8, 3.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    terms = [str(name) for name in table if name != TOTAL]
    # the palette's last color is black, that of the total
    styles = {TOTAL: ("black", ""), **{name: (PALETTE[i % 6], MARKERS[i % 7]) for i, name in enumerate(terms)}}
    for name, (color, marker) in styles.items():
        _draw_curve(axes, table[name].dropna(), name.removeprefix(PREFIX), color, marker)
    axes.set_xlabel("epoch", fontsize=SMALL + 1)
    axes.set_ylabel("loss", fontsize=SMALL + 1)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=SMALL, ncols=2)
    return figure


def _table(metrics: pd.DataFrame | Mapping[str, Sequence[float]] | str | Path) -> pd.DataFrame:
    """Return the losses by epoch: the index is the number of the epoch, from 1."""
    source = "The metrics"
    if isinstance(metrics, str | Path):
        source = f"The file '{metrics}'"
        if not Path(metrics).is_file():
            msg = f"{source} does not exist: train with a CSVLogger and pass its metrics.csv."
            raise FileNotFoundError(msg)
        metrics = pd.read_csv(metrics)
    table = pd.DataFrame(metrics)
    losses = [name for name in table if str(name).startswith(PREFIX) and str(name).endswith(SUFFIX)]
    if TOTAL not in losses:
        msg = f"{source} must have a column '{TOTAL}', got {', '.join(map(str, table)) or 'nothing'}."
        raise ValueError(msg)
    table = table.dropna(subset=[TOTAL])
    epochs = table["epoch"] + 1 if "epoch" in table else np.arange(1, len(table) + 1)
    return table[losses].set_axis(pd.Index(epochs), axis="index")


def _draw_curve(axes: Axes, values: pd.Series, name: str, color: str, marker: str) -> None:
    """Draw the values thin, their running mean thick."""
    window = max(1, len(values) // 10)
    axes.plot(values.index, values, color=color, alpha=0.35, linewidth=0.8)
    smooth = values.rolling(window, min_periods=1).mean()
    every = max(1, len(values) // 8)
    axes.plot(smooth.index, smooth, color=color, marker=marker, markevery=every, markersize=4, label=name)
