# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The cells of the paper's tables: mean and deviation over seeds, by category and over categories; the paper's own."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .results import Results

PUBLISHED_PATH = Path(__file__).parent.parent / "assets" / "published.csv"
SECOND_PATH = PUBLISHED_PATH.with_name("published_cvpr2026.csv")
SECOND_VERSION = " (CVPR 2026)"
"""Added to the methods of the paper's second version, whose figures of the same methods are others."""
MAIN_TABLES = ("1", "6", "7", "8", "cvpr2026")
TRANSFER = frozenset({"RegAD", "InCTRL", "AnomalyGPT"})
"""Methods that Table 1 marks as few-shot transfer: they learn from other data before they see the shots."""
MEASURED, PUBLISHED = "measured", "published"
MEAN = "mean"  # name of the row that averages the categories
TABLE = ["dataset", "setting", "metric", "shots"]  # shared by all cells of one table
CELL_COLUMNS = [*TABLE, "category", "method", "source", "mean", "std", "seeds", "categories", "key"]


def measured_cells(values: pd.DataFrame) -> pd.DataFrame:
    """Average the values of :class:`Results` over the seeds.

    Returns:
        One row per cell with ``CELL_COLUMNS``. ``std`` is the sample's and ``NaN`` for one seed; ``seeds`` counts the
        seeds; ``categories`` counts those in a mean. A mean over categories uses the seeds that have all categories
        of the table; where no seed has, its ``mean`` is ``NaN``.
    """
    method = [*TABLE, "method"]
    by_category = values.groupby([*method, "category"], sort=False)["value"].agg(["mean", "std", "count"])
    by_seed = values.groupby([*method, "seed"], sort=False)["value"].agg(number="count", value="mean").reset_index()
    wanted = values.groupby(TABLE)["category"].nunique().rename("wanted")
    by_seed = by_seed.join(wanted, on=TABLE)
    complete = by_seed["number"] == by_seed["wanted"]  # a seed that lacks a category would shift the mean
    by_seed["value"] = by_seed["value"].where(complete)
    means = by_seed.groupby(method, sort=False)["value"].agg(["mean", "std", "count"])
    own = values.groupby(method, sort=False)["category"].nunique()
    all_of_table = by_seed.groupby(method, sort=False)["wanted"].first()
    means = means.assign(categories=own.where(means["count"] == 0, all_of_table), category=MEAN)
    cells = pd.concat([by_category.reset_index().assign(categories=1), means.reset_index()], ignore_index=True)
    cells = cells.rename(columns={"count": "seeds"})
    cells = cells.assign(source=MEASURED, key=[method_key(name) for name in cells["method"]])
    return cells[CELL_COLUMNS]


def published_cells(results: Results) -> pd.DataFrame:
    """Return the paper's figures for the data sets of the results, in the columns of :func:`measured_cells`."""
    cells = load_published(results.published_tables or MAIN_TABLES)
    return cells[cells["dataset"].isin(set(results.jobs["dataset"]))].reindex(columns=CELL_COLUMNS)


def load_published(tables: Sequence[str] = MAIN_TABLES) -> pd.DataFrame:
    """Return the paper's figures of some of its tables.

    They are ``"1"`` to ``"8"`` (``"3a"`` to ``"3c"``) of its first version, ``"cvpr2026"`` and ``"cvpr2026-ablations"``
    of its second one.

    Returns:
        One row per figure with ``dataset``, ``setting``, ``metric``, ``shots``, ``category``, ``method``, ``source``,
        ``mean`` and ``std`` (percent, ``NaN`` where none is printed). A figure that stands in two tables comes once.

    Raises:
        ValueError: If there is no such table.
    """
    kinds = {"table": str, "shots": str}
    first, second = (pd.read_csv(path, comment="#", dtype=kinds) for path in (PUBLISHED_PATH, SECOND_PATH))
    second["method"] += SECOND_VERSION
    figures = pd.concat([first.assign(metric="AUROC"), second], ignore_index=True)
    unknown = sorted(set(tables) - set(figures["table"]))
    if unknown:
        msg = f"Unknown published table {', '.join(unknown)}: known are {', '.join(figures['table'].unique())}."
        raise ValueError(msg)
    figures = figures[figures["table"].isin(tables)]
    metric = figures["level"] + "_" + figures["metric"]
    figures = figures.assign(metric=metric, source=PUBLISHED, key=figures["method"].map(method_key))
    figures = figures.drop_duplicates(["dataset", "setting", "metric", "shots", "category", "key"])
    return figures.drop(columns=["table", "level"]).reset_index(drop=True)


def method_key(name: str) -> str:
    """Return a method's name without case, spaces and signs: ``Patchcore`` is ``PatchCore``, ``WinClip`` ``WinCLIP+``.

    The star of the one-class ``AnoPLe*`` and the arrows of the couplings are kept.
    """
    return re.sub(r"[^\w*→↔]|_", "", name.lower())


def groups(table: pd.DataFrame, *columns: str, sort: bool = False) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Take a table apart by the text in some of its columns, in the order of the first rows unless it is sorted."""
    for key, rows in table.groupby(list(columns), sort=sort):
        yield tuple(str(part) for part in key), rows


def ranks(cells: pd.DataFrame) -> dict[Any, int]:
    """Return the best (1) and second best (2) cells of their source by index.

    Equal numbers, as they are printed, share a rank; a cell that is alone has none.
    """
    by_source = cells["mean"].round(1).groupby(cells["source"])
    places = by_source.rank(method="dense", ascending=False)
    return {place: int(rank) for place, rank in places[by_source.transform("count") > 1].items() if rank <= 2}


def sorted_shots(shots: Iterable[str]) -> list[str]:
    """Return numbers of shots in ascending order, ``"all"`` last."""
    return sorted(shots, key=lambda value: (not value.isdigit(), int(value) if value.isdigit() else 0))


def shots_text(shots: str) -> str:
    """Return a number of shots as the paper writes it, such as ``"1-shot"``."""
    return f"{shots}-shot" if shots.isdigit() else f"{shots or 'unknown number of'} images"
