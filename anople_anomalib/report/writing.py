# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The files of a report: ``report.html``, ``report.md``, tables and plots, ``cells.csv`` and ``values.csv``."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from anople_anomalib.utils.files import written_whole

from .cells import CELL_COLUMNS, measured_cells, published_cells
from .gaps import gaps
from .long_form import long_form
from .measured import Results
from .page import render
from .plots import draw_plots, save_png
from .tables import TextTable, category_tables, cost_table, summary_tables

DEFAULT_METRICS = ("image_AUROC", "pixel_AUROC")
ALL_METRICS = "all"
LEGEND = """\
Means over categories are as in the paper's Table 1 and, for prompts without a memory, Table 2; tables by category are
as its Tables 6 to 9. Figures are percent. A cell says where it comes from: *measured* in this comparison, with n, its
number of seeds, or *published* in the AnoPLe paper. ± is the standard deviation over the seeds (n - 1 in the
denominator); one seed has none. In a row of means it is, for measured figures, the deviation of the seeds' means; the
paper prints the mean of the categories' deviations there, which is never smaller. The best measured figure of a line
(in a table of means: of a column) is **bold**, the second best <u>underlined</u>; published figures are ranked among
themselves.
"""


def write_report(results: Results, folder: Path, metrics: Sequence[str] = DEFAULT_METRICS) -> Path:
    """Write the report.

    Args:
        results: The results.
        folder: Folder of the report.
        metrics: Names of the metrics to report; ``"all"`` among them reports all there are.

    Returns:
        Path of ``report.html``. Beside it are ``report.md``, ``values.csv`` with every measured number in a row of its
        own, and ``cells.csv`` with the cells of the tables.

    Raises:
        ValueError: If no job has one of the metrics.
    """
    measured = measured_cells(_chosen(results.values, metrics))
    published = published_cells(results)
    summaries = summary_tables(measured, published, results.without_memory)
    tables = [*summaries, cost_table(results), *category_tables(measured, published)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables").mkdir(exist_ok=True)
    for table in tables:
        table.write_csv(folder / "tables")
    shown = pd.concat([measured, published[published["metric"].isin(measured["metric"])]], ignore_index=True)
    shown = shown[[column for column in CELL_COLUMNS if column != "key"]]
    _write_csv(folder / "cells.csv", shown)
    _write_csv(folder / "values.csv", long_form(results))
    plots = draw_plots(measured, published, results)
    paths = [save_png(figure, folder / f"{name}.png") for name, figure in plots.items()]
    _write_text(folder / "report.md", _markdown(tables, gaps(results), paths, results))
    return _write_text(folder / "report.html", render(tables, gaps(results, with_failed=False), plots, results))


def _chosen(values: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the values of the metrics, in the metrics' order."""
    known = list(values["metric"].unique())
    if not known:  # every job failed
        return values
    chosen = known if ALL_METRICS in metrics else [metric for metric in metrics if metric in known]
    if not chosen:
        msg = f"No job has one of the metrics {', '.join(metrics)}: there are {', '.join(known)}."
        raise ValueError(msg)
    return pd.concat([values[values["metric"] == metric] for metric in chosen], ignore_index=True)


def _markdown(tables: Sequence[TextTable], missing: Sequence[str], plots: Sequence[Path], results: Results) -> str:
    """Return the text of the report."""
    gap_list = [f"- {gap}" for gap in missing] or ["Nothing: every planned job succeeded."]
    counts = f"{len(results.done)} jobs succeeded, {len(results.failed)} failed, {len(results.missing)} did not run."
    lines = ["# Few-shot comparison", "", counts, "", LEGEND, "## What is missing", "", *gap_list, "", "## Tables", ""]
    lines += [table.markdown() for table in tables]
    lines += ["## Plots", "", *(f"![{path.stem}]({path.name})\n" for path in plots)]
    return "\n".join(lines)


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table in one go."""
    with written_whole(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")


def _write_text(path: Path, text: str) -> Path:
    """Write a file in one go."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
