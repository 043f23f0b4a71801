# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The figures that the AnoPLe paper publishes, to stand beside measured ones."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PUBLISHED_PATH = Path(__file__).parent.parent / "assets" / "published.csv"
MAIN_TABLES = ("1", "6", "7", "8")
PUBLISHED = "published"
MEAN = "mean"  # name of the row that averages the categories


def load_published(tables: Sequence[str] = MAIN_TABLES) -> pd.DataFrame:
    """Return the paper's figures of some of its tables.

    Args:
        tables: Names of the tables, ``"1"`` to ``"8"`` or ``"3a"`` to ``"3c"``.

    Returns:
        One row per figure with ``dataset``, ``setting``, ``metric``, ``shots``, ``category``, ``method``, ``source``,
        ``mean`` and ``std`` (percent, ``NaN`` where none is printed). A figure that stands in two tables comes once.

    Raises:
        ValueError: If there is no such table.
    """
    figures = pd.read_csv(PUBLISHED_PATH, comment="#", dtype={"table": str, "shots": str})
    unknown = sorted(set(tables) - set(figures["table"]))
    if unknown:
        msg = f"Unknown published table {', '.join(unknown)}: known are {', '.join(figures['table'].unique())}."
        raise ValueError(msg)
    figures = figures[figures["table"].isin(tables)]
    metric = figures["level"] + "_AUROC"
    figures = figures.assign(metric=metric, source=PUBLISHED, key=figures["method"].map(method_key))
    figures = figures.drop_duplicates(["dataset", "setting", "metric", "shots", "category", "key"])
    return figures.drop(columns=["table", "level"]).reset_index(drop=True)


def method_key(name: str) -> str:
    """Return a method's name without case, spaces and signs, so that ``Patchcore`` and ``PatchCore`` are the same.

    Args:
        name: Name of a method, ours or the paper's: ``"WinCLIP+"`` and ``"WinClip"`` are the same, too.

    Returns:
        The key; the star of the one-class ``AnoPLe*`` and the arrows of the couplings are kept.
    """
    return re.sub(r"[^\w*→↔]|_", "", name.lower())
