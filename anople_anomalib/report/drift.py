# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The drift of a watched line as one HTML page: charts with limits, alarms, and how often they are false."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from math import log1p
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from anople_anomalib.deployment.drift_log import CALIBRATION, MEASURES, lines_of
from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.metrics.drift import FALSE_ALARMS, MONTH, WEIGHT, alarms_of_unchanged_lines
from anople_anomalib.utils.palette import BLUE, VERMILLION

from .page import render, write_text
from .plots import as_svg

_DAYS = 30.0  # of a month


def write_drift(folder: Path, output: Path) -> Path:
    """Write ``drift.html`` on the log of a watch, see :mod:`~anople_anomalib.deployment.drift_log`.

    Args:
        folder: Folder of the verdicts.
        output: Folder of the page.
    """
    lines = [*lines_of(folder)]
    windows, alarms = ([line for line in lines if line["kind"] == kind] for kind in ("window", "alarm"))
    measures = [measure for measure in MEASURES if any(measure in window for window in windows)]
    wrong = Rate(*alarms_of_unchanged_lines(CALIBRATION))
    # alarms of independent charts come one by one: so many are expected in a number of parts
    expected = -len(measures) * log1p(-wrong.value) / MONTH
    return write_text(
        output / "drift.html",
        render(
            "drift.html",
            title=folder.resolve().name,
            chart=as_svg(_draw(windows, alarms, measures), "drift") if measures else "",
            alarms=alarms,
            parts=sum(_added(windows)),
            stated={"false_alarms": FALSE_ALARMS, "month": MONTH, "weight": WEIGHT, "calibration": CALIBRATION},
            simulated=wrong,
            charts=len(measures),
            together=expected * MONTH,
            a_month=_parts_a_month(windows) * expected,
        ),
    )


def _added(windows: Sequence[dict[str, Any]]) -> list[int]:
    """Return the number of parts in each window; a watch that starts again counts from 0."""
    counted = [window["parts"] for window in windows]
    return [parts - before if before < parts else parts for before, parts in pairwise([0, *counted])]


def _parts_a_month(windows: Sequence[dict[str, Any]]) -> float:
    """Return the parts of a month at the pace of the log; 0 for less than an hour of it."""
    if len(windows) < 2:
        return 0.0
    days = (_time(windows[-1]) - _time(windows[0])).total_seconds() / 86_400
    return _DAYS * sum(_added(windows)[1:]) / days if days > 1 / 24 else 0.0


def _draw(windows: Sequence[dict[str, Any]], alarms: Sequence[dict[str, Any]], measures: Sequence[str]) -> Figure:
    """Draw the moving average of every measure between its limits, and the alarms on it."""
    figure = Figure(figsize=(8, 1.9 * len(measures)), layout="constrained")
    for axes, measure in zip(figure.subplots(len(measures), sharex=True, squeeze=False)[:, 0], measures, strict=True):
        own = [window for window in windows if measure in window]
        times, limits = [_time(window) for window in own], [window[f"{measure}_limit"] for window in own]
        axes.plot(times, [window[measure] for window in own], color=BLUE, marker=".")
        for sign in (-1, 1):
            axes.plot(times, [sign * limit for limit in limits], color="black", linestyle="--", linewidth=1)
        for alarm in alarms:
            if alarm["text"].startswith(f"The {measure} "):
                axes.axvline(_time(alarm), color=VERMILLION)
        axes.set_ylabel(measure)
        axes.grid(alpha=0.3)
    figure.supylabel("moving average, in deviations of the calibration", fontsize="small")
    figure.autofmt_xdate()
    return figure


def _time(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["time"])
