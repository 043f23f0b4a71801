# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's tables: by category as its Tables 6 to 9, and over all categories as its Table 1."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from anople_anomalib.utils.files import written_whole

from .cells import TABLE, cell_text, ranks, shots_text, sorted_shots
from .groups import groups
from .measured import MEASURED, PERCENT, Results
from .published import MEAN, PUBLISHED

COSTS = {
    "fit_seconds": "Fit (s)",
    "fit_cpu_seconds": "Fit, CPU (s)",
    "test_seconds": "Test (s)",
    "images_per_second": "Images/s",
    "images_per_cpu_second": "Images/s of CPU",
    "peak_memory_mb": "Peak memory (MB)",
    "trainable_parameters": "Trained parameters",
    "checkpoint_mb": "Checkpoint (MB)",
}
MARKS = {None: "{}", 1: "**{}**", 2: "<u>{}</u>"}  # best, second best


@dataclass
class TextTable:
    """A table of text.

    Args:
        title: What it shows.
        header: Names of the columns.
        rows: Cells, and the rank of each: 1 for the best, 2 for the second best, else ``None``.
    """

    title: str
    header: list[str]
    rows: list[list[tuple[str, int | None]]]

    def markdown(self) -> str:
        """Return the table in Markdown, the best bold and the second best underlined."""
        rows = [[_escaped(MARKS[rank].format(text)) if text else "" for text, rank in row] for row in self.rows]
        table = pd.DataFrame(rows, columns=[_escaped(name) for name in self.header])
        return f"### {self.title}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"

    def write_csv(self, folder: Path) -> Path:
        """Write the table, without marks, under a name made of its title."""
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in self.title)
        path = folder / f"{name}.csv"
        frame = pd.DataFrame([[text for text, _ in row] for row in self.rows], columns=self.header)
        with written_whole(path) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
        return path


def category_tables(measured: pd.DataFrame, published: pd.DataFrame) -> list[TextTable]:
    """Return one table per data set, setting, metric and number of shots: a row per category, and their mean.

    Args:
        measured: Cells as :func:`measured_cells` returns them.
        published: Cells as :func:`published_cells` returns them. A method of the paper that is measured, too, gets a
            column beside ours.

    Returns:
        The tables by data set, setting, metric and number of shots.
    """
    tables = dict(groups(measured, *TABLE))
    metrics = list(measured["metric"].unique())
    shots = sorted_shots(measured["shots"].unique())
    order = sorted(tables, key=lambda key: (*key[:2], metrics.index(key[2]), shots.index(key[3])))
    return [_category_table(dict(zip(TABLE, key, strict=True)), tables[key], published) for key in order]


def _category_table(key: dict[str, str], measured: pd.DataFrame, published: pd.DataFrame) -> TextTable:
    """Return the table of one data set, setting, metric and number of shots."""
    for name in ("dataset", "metric", "shots"):
        published = published[published[name] == key[name]]
    columns: list[tuple[str, pd.DataFrame]] = []
    for (method,), cells in groups(measured, "method"):
        columns.append((method, cells))
        for (setting,), beside in groups(published[published["key"].isin(cells["key"])], "setting", sort=True):
            columns.append((f"{beside['method'].iloc[0]}, paper ({setting})", beside))
    categories = sorted(set(measured["category"]) - {MEAN})
    rows = []
    for category in [*categories, MEAN]:
        line = [cells[cells["category"] == category].head(1) for _, cells in columns]
        best = ranks(pd.concat([cell.assign(index=number) for number, cell in enumerate(line)]).set_index("index"))
        texts = [cell_text(cell.iloc[0].to_dict()) if len(cell) else "" for cell in line]
        rows.append([(category, None), *((text, best.get(number)) for number, text in enumerate(texts))])
    title = f"{key['dataset']}, {key['setting']}, {key['metric']}, {shots_text(key['shots'])}"
    return TextTable(title, ["Category", *(name for name, _ in columns)], rows)


def summary_tables(
    measured: pd.DataFrame, published: pd.DataFrame, without_memory: Collection[str] = ()
) -> list[TextTable]:
    """Return one table per data set and setting: a row per method, ours and the paper's, with its means.

    Args:
        measured: Cells as :func:`measured_cells` returns them.
        published: Cells as :func:`published_cells` returns them; one-class and multi-class figures are not mixed.
        without_memory: Methods that were given none: beside others, they have a table of their own, as the paper's
            Table 2.

    Returns:
        The tables, in the order of the cells.
    """
    cells = pd.concat([measured, published], ignore_index=True)
    means = cells[cells["category"] == MEAN]
    tables = []
    for (dataset, setting), _ in groups(measured, "dataset", "setting"):
        own = means[(means["dataset"] == dataset) & (means["setting"] == setting)]
        prompts = own["method"].isin(without_memory) & (own["source"] == MEASURED)
        mixed = prompts.any() and not prompts[own["source"] == MEASURED].all()
        title = f"{dataset}, {setting}, means over categories"
        tables.append(_summary_table(title, own[~prompts] if mixed else own))
        if mixed:
            tables.append(_summary_table(f"{title}, prompts without a memory", own[prompts]))
    return tables


def _summary_table(title: str, means: pd.DataFrame) -> TextTable:
    """Return the table of one data set and setting; a measured mean says over how many categories it is."""
    ours = means[means["source"] == MEASURED]
    columns = [(metric, shots) for metric in ours["metric"].unique() for shots in sorted_shots(ours["shots"].unique())]
    rows: dict[tuple[str, str], list[tuple[str, int | None]]] = {}
    for number, (metric, shots) in enumerate(columns):
        column = means[(means["metric"] == metric) & (means["shots"] == shots)]
        best = ranks(column)
        for index, cell in column.iterrows():
            text = cell_text(cell.to_dict())
            if cell["source"] == MEASURED and cell["seeds"]:
                text += f", {cell['categories']:.0f} " + ("category" if cell["categories"] == 1 else "categories")
            row = rows.setdefault((cell["method"], cell["source"]), [("", None)] * len(columns))
            row[number] = (text, best.get(index))
    order = sorted(rows, key=lambda row: row[1] == PUBLISHED)  # ours first
    lines = [[(method, None), *rows[method, source]] for method, source in order]
    header = ["Method", *(f"{metric}, {shots_text(shots)}" for metric, shots in columns)]
    return TextTable(title, header, lines)


def cost_table(results: Results) -> TextTable:
    """Return what the methods cost: the median over all jobs of a method that succeeded, all of it measured."""
    rows: list[list[tuple[str, int | None]]] = []
    for (method, dataset, setting), jobs in groups(results.done, "method", "dataset", "setting"):
        jobs = jobs.reindex(columns=list(dict.fromkeys([*jobs.columns, *COSTS])))  # older rows have fewer
        cells = [_short_number(pd.to_numeric(jobs[cost]).median()) for cost in COSTS]
        accelerators = ", ".join(jobs["accelerator"].unique())
        rows.append([(text, None) for text in (method, dataset, setting, accelerators, str(len(jobs)), *cells)])
    header = ["Method", "Data set", "Setting", "Accelerator", "Jobs", *COSTS.values()]
    return TextTable("Costs per job, median, measured", header, rows)


def _short_number(value: float) -> str:
    """Return a number with at least three digits, whole ones without a point; nothing for ``NaN``."""
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if value >= PERCENT or value == int(value) else f"{value:.2f}"


def _escaped(cell: str) -> str:
    """Return a cell whose bars are no borders of a Markdown table."""
    return cell.replace("|", "\\|")
