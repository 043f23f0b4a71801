# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The cells of the paper's tables: mean and standard deviation over seeds, by category and over categories."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from .groups import groups
from .measured import MEASURED, Results
from .published import MEAN, load_published, method_key

TABLE = ["dataset", "setting", "metric", "shots"]  # what all cells of one table share
CELL_COLUMNS = [*TABLE, "category", "method", "source", "mean", "std", "seeds", "categories", "key"]


def measured_cells(values: pd.DataFrame) -> pd.DataFrame:
    """Average the measured values over the seeds.

    Args:
        values: The values of :class:`Results`.

    Returns:
        One row per cell with ``CELL_COLUMNS``. ``std`` is the sample's and ``NaN`` for one seed; ``seeds`` counts the
        seeds; ``categories`` counts those in a mean. A mean over categories uses the seeds that have all categories
        of the table; where no seed has, its ``mean`` is ``NaN``.
    """
    cells: list[dict[str, Any]] = []
    for table, group in groups(values, *TABLE):
        known = dict(zip(TABLE, table, strict=True))
        all_categories = group["category"].nunique()
        for (method,), own in groups(group, "method"):
            cell = {**known, "method": method, "source": MEASURED, "key": method_key(method)}
            for (category,), rows in groups(own, "category"):
                cells.append({**cell, "category": category, "categories": 1, **_statistics(rows["value"].tolist())})
            by_seed = own.groupby("seed")["value"].agg(["count", "mean"])
            # a seed that lacks a category would shift the mean
            complete = by_seed[by_seed["count"] == all_categories]["mean"].tolist()
            cells.append(
                {
                    **cell,
                    "category": MEAN,
                    "categories": all_categories if complete else own["category"].nunique(),
                    **_statistics(complete),
                }
            )
    return pd.DataFrame(cells, columns=CELL_COLUMNS)


def published_cells(results: Results) -> pd.DataFrame:
    """Return the paper's figures for the data sets of the results, in the columns of :func:`measured_cells`."""
    cells = load_published(results.published_tables) if results.published_tables else load_published()
    return cells[cells["dataset"].isin(set(results.jobs["dataset"]))].reindex(columns=CELL_COLUMNS)


def cell_text(cell: Mapping[str, Any]) -> str:
    """Return a cell with its source and, where it is measured, its number of seeds.

    Args:
        cell: A row of :func:`measured_cells` or :func:`published_cells`.

    Returns:
        Such as ``"94.1±2.1 published"`` or ``"93.8±0.9 measured, n=5"``.
    """
    if math.isnan(cell["mean"]):
        return f"only {cell['categories']} categories measured"
    number = f"{cell['mean']:.1f}" + ("" if math.isnan(cell["std"]) else f"±{cell['std']:.1f}")
    return f"{number} {cell['source']}" + (f", n={cell['seeds']:.0f}" if cell["source"] == MEASURED else "")


def ranks(cells: pd.DataFrame) -> dict[Any, int]:
    """Return which cells of one line are the best (1) and second best (2) of their source.

    Args:
        cells: The cells that are compared. Equal numbers, as they are printed, share a rank; a cell that is alone
            has none.

    Returns:
        Ranks by the cells' index.
    """
    best: dict[Any, int] = {}
    for _, group in cells.dropna(subset=["mean"]).groupby("source"):
        printed = group["mean"].round(1)
        places = sorted(printed.unique(), reverse=True)[:2] if len(group) > 1 else []
        best.update({index: places.index(value) + 1 for index, value in printed.items() if value in places})
    return best


def sorted_shots(shots: Iterable[str]) -> list[str]:
    """Return numbers of shots in ascending order, ``"all"`` last."""
    return sorted(shots, key=lambda value: (not value.isdigit(), int(value) if value.isdigit() else 0))


def shots_text(shots: str) -> str:
    """Return a number of shots as the paper writes it, such as ``"1-shot"``."""
    return f"{shots}-shot" if shots.isdigit() else f"{shots or 'unknown number of'} images"


def _statistics(values: list[float]) -> dict[str, float]:
    """Return mean, sample standard deviation and number of values."""
    return {
        "mean": statistics.fmean(values) if values else math.nan,
        "std": statistics.stdev(values) if len(values) > 1 else math.nan,
        "seeds": len(values),
    }
