# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Plots of a comparison: shots against AUROC, and speed against AUROC."""

import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from anople_anomalib.utils.palette import MARKERS, PALETTE

from .cells import MEAN, MEASURED, PUBLISHED, groups, sorted_shots
from .results import Results

FIGURE_SIZE = (6.4, 4.4)  # inches
DPI = 150
TOP = 101  # percent; no AUROC is above 100
SPEED_METRIC = "image_AUROC"


def draw_plots(measured: pd.DataFrame, published: pd.DataFrame, results: Results) -> dict[str, Figure]:
    """Draw AUROC against shots, where there are several numbers of shots, and against speed; by name of the plot."""
    means = measured[measured["category"] == MEAN].dropna(subset=["mean"])
    means = means[means["metric"].str.endswith("AUROC")]
    # a method looks the same in all plots
    styles = {method: _style(number) for number, method in enumerate(means["method"].unique())}
    plots = {}
    for (dataset, setting, metric), cells in groups(means, "dataset", "setting", "metric"):
        name = f"{dataset}_{setting}_{metric}"
        if cells["shots"].nunique() > 1:
            of_paper = (published["dataset"] == dataset) & (published["metric"] == metric)
            beside = published[of_paper & (published["category"] == MEAN)]
            plots[f"shots_{name}"] = _draw_shots(cells, beside, styles)
        if metric == SPEED_METRIC:
            jobs = results.done[(results.done["dataset"] == dataset) & (results.done["setting"] == setting)]
            plots[f"speed_{name}"] = _draw_speed(cells, jobs, styles)
    return plots


def as_svg(figure: Figure, name: str) -> str:
    """Return a plot as an SVG element that may stand beside others in one page: its identifiers begin with its name.

    The name is also for those who hear the page.
    """
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    _, _, svg = stream.getvalue().partition("<svg ")
    prefix = re.sub(r"\W", "_", name)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    return f'<svg role="img" aria-label="{escape(name.replace("_", " "))}" {svg}'


def _draw_shots(cells: pd.DataFrame, published: pd.DataFrame, styles: Mapping[str, tuple[str, str]]) -> Figure:
    """Draw AUROC against shots: ours with error bars over seeds, the paper's figures hollow and dashed."""
    places = {shots: number for number, shots in enumerate(sorted_shots(cells["shots"].unique()))}
    figure, axes = _new_figure(cells, "normal images per category (k)")
    axes.set_xticks(list(places.values()), list(places))
    for (method,), own in groups(cells, "method"):
        _draw(axes, own, own["shots"].map(places), styles[method], label=_label(own), linestyle="-")
        same = published[published["key"].isin(own["key"]) & published["shots"].isin(places)]
        for (setting,), beside in groups(same, "setting", sort=True):
            hollow = {"linestyle": "--", "markerfacecolor": "white", "label": f"{method}, {PUBLISHED}, {setting}"}
            _draw(axes, beside, beside["shots"].map(places), styles[method], **hollow)
    return _finished(figure, axes)


def _draw_speed(cells: pd.DataFrame, jobs: pd.DataFrame, styles: Mapping[str, tuple[str, str]]) -> Figure:
    """Draw AUROC against images per second, both measured, one point per method and number of shots."""
    figure, axes = _new_figure(cells, "images per second (median; batches as tested)")
    speeds = pd.to_numeric(jobs["images_per_second"]).groupby([jobs["method"], jobs["k_shot"]]).median()
    for (method,), own in groups(cells, "method"):
        places = own["shots"].map(speeds[method])
        _draw(axes, own, places, styles[method], label=_label(own), linestyle="none")
        for place, mean, shots in zip(places, own["mean"], own["shots"], strict=True):
            axes.annotate(f"k={shots}", (place, mean), xytext=(5, 4), textcoords="offset points", fontsize="small")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())  # plain numbers instead of powers of ten
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    return _finished(figure, axes)


def _new_figure(cells: pd.DataFrame, x_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=FIGURE_SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    first = cells.iloc[0]
    axes.set_title(f"{first['dataset']}, {first['setting']}, mean over {first['categories']:.0f} categories")
    axes.set_xlabel(x_label)
    axes.set_ylabel(f"{first['metric'].replace('_', ' ')} (%)")
    axes.grid(alpha=0.3)
    return figure, axes


def _draw(axes: Axes, cells: pd.DataFrame, places: pd.Series, style: tuple[str, str], **line: Any) -> None:
    """Draw the cells of one method with error bars, at their places on the horizontal axis."""
    order, (color, marker) = places.sort_values().index, style
    cells, places = cells.loc[order], places.loc[order]
    axes.errorbar(places, cells["mean"], yerr=cells["std"], color=color, marker=marker, capsize=3, **line)


def _finished(figure: Figure, axes: Axes) -> Figure:
    axes.set_ylim(top=min(axes.get_ylim()[1], TOP))
    axes.legend(fontsize="small")
    return figure


def _label(cells: pd.DataFrame) -> str:
    """Return the name of a measured method, with its number of seeds, or the range where that differs."""
    low, high = cells["seeds"].min(), cells["seeds"].max()
    return f"{cells['method'].iloc[0]}, {MEASURED}, n={low:.0f}" + ("" if low == high else f" to {high:.0f}")


def _style(number: int) -> tuple[str, str]:
    return PALETTE[number % len(PALETTE)], MARKERS[(number + number // len(PALETTE)) % len(MARKERS)]
