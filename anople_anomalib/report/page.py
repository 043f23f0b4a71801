# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The files of a report: a page that needs nothing beside it, the same in Markdown, tables, plots and all numbers."""

import base64
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from anople_anomalib.pipeline.results import EXAMPLES
from anople_anomalib.pipeline.settings import split_categories
from anople_anomalib.utils.files import written_whole

from .cells import CELL_COLUMNS, groups, measured_cells, published_cells, shots_text
from .plots import as_svg, draw_plots
from .results import Results
from .statistics import load_scores, statistics_of
from .tables import Cell, TextTable, category_tables, cost_table, gaps, robustness_tables, summary_tables, verdict_table

logger = logging.getLogger(__name__)

DEFAULT_METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
ALL_METRICS = "all"
_TEMPLATES = Environment(
    loader=PackageLoader(__package__, ""), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True
)


def write_report(results: Results, folder: Path, metrics: Sequence[str] = DEFAULT_METRICS) -> Path:
    """Write ``report.html``, ``report.md``, tables, ``cells.csv`` with their cells, and ``values.csv``, every number.

    Args:
        results: The results.
        folder: Folder of the report.
        metrics: Names of the metrics to report; ``"all"`` among them reports all there are.

    Raises:
        ValueError: If no job has one of the metrics.
    """
    measured = measured_cells(_chosen(results.values, metrics))
    published = published_cells(results)
    summaries = summary_tables(measured, published, results.without_memory, results.transfer)
    verdicts = [table for table in [verdict_table(results)] if table.rows]
    tables = [
        *summaries,
        *verdicts,
        cost_table(results),
        *robustness_tables(results.values),
        *category_tables(measured, published),
    ]
    plots = draw_plots(measured, published, results)
    try:
        statistics, diagrams = statistics_of(load_scores(results))
        tables, plots = [*tables, *statistics], plots | diagrams
    except ImportError as error:
        logger.warning("There are no statistics (%s): pip install 'anople-anomalib[compare]'.", error)
    except Exception:  # SciPy and scikit-posthocs raise whatever they like on odd scores
        logger.exception("There are no statistics of these scores; all else of the report is written.")
    shown = pd.concat([measured, published[published["metric"].isin(measured["metric"])]], ignore_index=True)
    frames = {"cells": shown[[column for column in CELL_COLUMNS if column != "key"]], "values": results.long_form()}
    frames |= {"tables/" + re.sub(r"[^\w-]", "_", table.title): table.frame() for table in tables}
    _write_parts(folder, frames, plots)
    common = {"counts": (len(results.done), len(results.failed), len(results.missing)), "tables": tables}
    write_text(folder / "report.md", render("page.md", missing=gaps(results), plots=plots, **common))
    page = render(
        "page.html",
        missing=gaps(results, with_failed=False),
        plots=[as_svg(figure, name) for name, figure in plots.items()],
        failed=_failed_table(results.failed),
        examples=_examples(results),
        **common,
    )
    return write_text(folder / "report.html", page)


def _write_parts(folder: Path, frames: Mapping[str, pd.DataFrame], plots: Mapping[str, Figure]) -> None:
    """Write tables as CSV and plots as PNG, by their names."""
    for name, frame in frames.items():
        with written_whole(folder / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
    for name, figure in plots.items():
        with written_whole(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png")


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder; text in a page is escaped, and a missing value is an error."""
    return _TEMPLATES.get_template(template).render(**values)


def write_text(path: Path, text: str) -> Path:
    """Write a file in one go, and return its path."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def image_address(content: bytes, kind: str = "jpeg") -> str:
    """Return an image file as a data address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


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


def _failed_table(failed: pd.DataFrame) -> TextTable:
    rows = failed[["method", "dataset", "categories", "k_shot", "seed", "error"]].to_numpy().tolist()
    cells = [[Cell(text, float(text) if text.isdigit() else None) for text in row] for row in rows]
    return TextTable("Jobs that failed", ["Method", "Data set", "Categories", "Shots", "Seed", "Error"], cells)


def _examples(results: Results) -> list[dict[str, Any]]:
    """Return the pictures that the jobs left: of every method and category those of the fewest shots and first seed."""
    found: list[dict[str, Any]] = []
    for (dataset, setting), jobs in groups(results.done, "dataset", "setting"):
        jobs = jobs.assign(k=jobs["k_shot"].str.zfill(9), s=jobs["seed"].str.zfill(9)).sort_values(["k", "s"])
        pictures: dict[str, dict[str, str]] = {}
        for job in jobs.to_dict("records"):
            for category in split_categories(job["categories"]):
                examples = results.folders[job["job_id"]] / EXAMPLES
                path = examples / job["job_id"] / f"{category}.jpg"
                if path.is_file() and path.resolve().is_relative_to(examples.resolve()):  # of a stranger's, too
                    pictures.setdefault(category, {}).setdefault(job["method"], image_address(path.read_bytes()))
        if pictures:
            first = jobs.iloc[0]
            title = f"{dataset}, {setting}, {shots_text(first['k_shot'])}, seed {first['seed']}"
            methods = [method for method in jobs["method"].unique() if any(method in row for row in pictures.values())]
            found.append({"title": title, "methods": methods, "pictures": dict(sorted(pictures.items()))})
    return found
