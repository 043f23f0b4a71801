# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Plots of a comparison: shots against AUROC, and speed against AUROC."""

import io
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from anople_anomalib.utils.files import written_whole
from anople_anomalib.utils.palette import MARKERS, PALETTE

from .cells import sorted_shots
from .groups import groups
from .measured import MEASURED, Results
from .published import MEAN, PUBLISHED

FIGURE_SIZE = (6.4, 4.4)  # inches
DPI = 150
TOP = 101  # percent; no AUROC is above 100
SPEED_METRIC = "image_AUROC"


def draw_plots(measured: pd.DataFrame, published: pd.DataFrame, results: Results) -> dict[str, Figure]:
    """Draw all plots that the results allow.

    Args:
        measured: Cells as :func:`measured_cells` returns them.
        published: Cells as :func:`published_cells` returns them.
        results: The results, for the speed.

    Returns:
        The plots by name: AUROC against shots where there is more than one number of shots, AUROC against speed
        where the speed was measured.
    """
    means = measured[measured["category"] == MEAN].dropna(subset=["mean"])
    means = means[means["metric"].str.endswith("AUROC")]
    # a method looks the same in all plots
    styles = {method: number for number, method in enumerate(means["method"].unique())}
    plots = {}
    for (dataset, setting, metric), cells in groups(means, "dataset", "setting", "metric"):
        name = f"{dataset}_{setting}_{metric}"
        if cells["shots"].nunique() > 1:
            beside = published[(published["dataset"] == dataset) & (published["metric"] == metric)]
            beside = beside[(beside["category"] == MEAN) & beside["key"].isin(cells["key"])]
            plots[f"shots_{name}"] = _draw_shots(cells, beside, styles)
        if metric == SPEED_METRIC:
            plots[f"speed_{name}"] = _draw_speed(cells, results.done, styles)
    return plots


def save_png(figure: Figure, path: Path) -> Path:
    """Write a plot as an image file."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def as_svg(figure: Figure, name: str) -> str:
    """Return a plot as an SVG element that may stand beside others in one page.

    Args:
        figure: The plot.
        name: What it shows, for those who hear the page; its identifiers begin with it, too.
    """
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    _, _, svg = stream.getvalue().partition("<svg ")
    prefix = re.sub(r"\W", "_", name)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    return f'<svg role="img" aria-label="{escape(name.replace("_", " "))}" {svg}'


def _draw_shots(cells: pd.DataFrame, published: pd.DataFrame, styles: dict[str, int]) -> Figure:
    """Draw AUROC against shots: ours with error bars over seeds, the paper's figures hollow and dashed."""
    figure, axes = _new_figure(cells)
    places = {shots: number for number, shots in enumerate(sorted_shots(cells["shots"].unique()))}
    published = published[published["shots"].isin(places)]
    for (method,), own in groups(cells, "method"):
        color, marker = _style(styles[method])
        for source, line in ((MEASURED, own), *_by_setting(published[published["key"].isin(own["key"])])):
            line = line.assign(place=line["shots"].map(places)).sort_values("place")
            seeds = "" if source != MEASURED else f", n={_range(line['seeds'])}"
            axes.errorbar(
                line["place"],
                line["mean"],
                yerr=line["std"],
                color=color,
                marker=marker,
                capsize=3,
                linestyle="-" if source == MEASURED else "--",
                markerfacecolor=color if source == MEASURED else "white",
                label=f"{method}, {source}{seeds}",
            )
    axes.set_xticks(list(places.values()), list(places))
    axes.set_xlabel("normal images per category (k)")
    return _finished(figure, axes)


def _draw_speed(cells: pd.DataFrame, jobs: pd.DataFrame, styles: dict[str, int]) -> Figure:
    """Draw AUROC against images per second, both measured, one point per method and number of shots."""
    figure, axes = _new_figure(cells)
    for (method,), own in groups(cells, "method"):
        color, marker = _style(styles[method])
        same = jobs[(jobs["method"] == method) & jobs["dataset"].isin(own["dataset"])]
        same = same[same["setting"].isin(own["setting"])]
        speeds = pd.to_numeric(same["images_per_second"]).groupby(same["k_shot"]).median()
        own = own.assign(speed=own["shots"].map(speeds))
        label = f"{method}, {MEASURED}, n={_range(own['seeds'])}"
        axes.errorbar(own["speed"], own["mean"], yerr=own["std"], color=color, fmt=marker, capsize=3, label=label)
        for _, cell in own.iterrows():
            place = (cell["speed"], cell["mean"])
            axes.annotate(f"k={cell['shots']}", place, xytext=(5, 4), textcoords="offset points", fontsize="small")
    axes.set_xscale("log")
    # plain numbers instead of powers of ten
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(ScalarFormatter())
    axes.set_xlabel("images per second (median; batches as tested)")
    return _finished(figure, axes)


def _by_setting(published: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Return the paper's figures by setting, each with the name of its source."""
    for setting, cells in published.groupby("setting"):
        yield f"{PUBLISHED}, {setting}", cells


def _new_figure(cells: pd.DataFrame) -> tuple[Figure, Axes]:
    """Return a figure with the title and the vertical axis of the cells."""
    figure = Figure(figsize=FIGURE_SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    first = cells.iloc[0]
    axes.set_title(f"{first['dataset']}, {first['setting']}, mean over {first['categories']:.0f} categories")
    axes.set_ylabel(f"{first['metric'].replace('_', ' ')} (%)")
    axes.grid(alpha=0.3)
    return figure, axes


def _finished(figure: Figure, axes: Axes) -> Figure:
    """Add the legend."""
    axes.set_ylim(top=min(axes.get_ylim()[1], TOP))
    axes.legend(fontsize="small")
    return figure


def _style(number: int) -> tuple[str, str]:
    """Return the color and the marker of a method."""
    return PALETTE[number % len(PALETTE)], MARKERS[(number + number // len(PALETTE)) % len(MARKERS)]


def _range(seeds: pd.Series) -> str:
    """Return the number of seeds, or the range where it differs."""
    low, high = int(seeds.min()), int(seeds.max())
    return f"{low}" if low == high else f"{low} to {high}"
