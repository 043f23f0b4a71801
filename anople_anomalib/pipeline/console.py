# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a comparison shows on the console: a line when a job ends and a table of all rows at the end."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from .results import FAILED
from .settings import split_categories

MAIN_METRICS = {
    "image_AUROC": "image\nAUROC",
    "image_F1Max": "image\nF1Max",
    "pixel_AUROC": "pixel\nAUROC",
    "pixel_AUPRO": "pixel\nAUPRO",
}
COSTS = {"fit_seconds": "fit\ns", "test_seconds": "test\ns", "images_per_second": "images\n/s", "peak_memory_mb": "MB"}
SHOWN = MAIN_METRICS | COSTS  # columns of the results, with their headings
MAX_CATEGORIES = 3  # more are counted instead of named
FILE_WIDTH = 160  # characters per line where the console is a file


@contextmanager
def logged_from(level: int, name: str) -> Iterator[None]:
    """Log nothing of less than a level within the block.

    Args:
        level: Such as ``logging.WARNING``.
        name: Name of the logger.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def announce(row: Mapping[str, Any], position: str) -> None:
    """Print one line for a job that ended, above the progress bar if there is one.

    Args:
        row: The job's row.
        position: The job's place in the whole, such as ``"3/12"``.
    """
    what = f"{row['model']} on {row['dataset']} {_short_categories(row['categories'])}".rstrip()
    line = f"[{position}] {what}, {row['k_shot'] or 'all'} shots, seed {row['seed']}: "
    if row["status"] == FAILED:
        line += f"failed with {row['error']}"
    else:
        scores = (f"{name} {float(row[name]):.3f}" for name in MAIN_METRICS if name in row)
        line += ", ".join([*scores, f"{row['fit_seconds'] + row['test_seconds']:.1f} s"])
    tqdm.write(line)


def results_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Return a table of the rows with the main metrics and the costs.

    Args:
        rows: Rows as :meth:`ResultsTable.rows` returns them.

    Returns:
        One line per row; columns without any value are left out.
    """
    names = [name for name in SHOWN if any(row.get(name) for row in rows)]
    table = Table(title="Few-shot comparison", header_style="bold", box=SIMPLE_HEAD, padding=0)
    for name in ("model", "data", "k", "seed"):
        table.add_column(name, overflow="fold")
    for name in names:
        table.add_column(SHOWN[name], justify="right")
    table.add_column("status")
    for row in rows:
        data = f"{row['dataset']} {_short_categories(row['categories'])}"
        cells = [row["model"], data, row["k_shot"], row["seed"], *(_short_number(row.get(name, "")) for name in names)]
        table.add_row(*map(escape, cells), row["status"], style="red" if row["status"] == FAILED else None)
    return table


def show(rows: Sequence[Mapping[str, str]]) -> None:
    """Print the table of the rows, then the error of each row that failed."""
    console = Console()
    if not console.is_terminal:  # a file has room
        console = Console(width=FILE_WIDTH)
    console.print(results_table(rows))
    for row in rows:
        if row["status"] == FAILED:
            what = f"{row['model']} on {row['dataset']} {_short_categories(row['categories'])}, seed {row['seed']}"
            console.print(f"[red]Failed:[/red] {escape(what)}: {escape(row['error'])}", soft_wrap=True)


def _short_categories(cell: str) -> str:
    """Return the categories, or their number where they are many."""
    categories = split_categories(cell)
    return ", ".join(categories) if len(categories) <= MAX_CATEGORIES else f"{len(categories)} categories"


def _short_number(cell: str) -> str:
    """Return a number with three digits after the point, or one where it is large."""
    if not cell:
        return ""
    value = float(cell)
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.1f}"
