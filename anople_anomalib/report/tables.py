# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The paper's tables, by category as its Tables 6 to 9 and over all categories as its Table 1; costs; and gaps."""

import json
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from anople_anomalib.metrics.bounds import GOOD, Rate, percent, together
from anople_anomalib.pipeline.results import COSTS
from anople_anomalib.pipeline.settings import split_categories

from .cells import MEAN, MEASURED, PUBLISHED, TABLE, TRANSFER, groups, load_published, ranks, shots_text, sorted_shots
from .results import PERCENT, Results

MARKS = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}  # best, second best
JOB = ["method", "dataset", "categories", "k_shot"]


class Cell(NamedTuple):
    """A cell of a table: text, or a figure with its deviation.

    Attributes:
        number: The number that it is sorted by; ``None`` for text.
        source: Source of a figure, ``"measured"`` or ``"published"``.
        note: The same, with its number of seeds and of categories.
        rank: 1 for the best figure of a line, 2 for the second best, else 0.
    """

    text: str
    number: float | None = None
    source: str = ""
    note: str = ""
    rank: int = 0

    def __str__(self) -> str:
        """Return the text with its note."""
        return f"{self.text} {self.note}".rstrip()


@dataclass
class TextTable:
    """A table with a title, the names of its columns, and its rows."""

    title: str
    header: list[str]
    rows: list[list[Cell]]

    def markdown(self) -> str:
        """Return the table in Markdown, the best bold and the second best underlined."""
        rows = [[_escaped(MARKS[cell.rank].format(cell)) if cell.text else "" for cell in row] for row in self.rows]
        table = pd.DataFrame(rows, columns=[_escaped(name) for name in self.header])
        return f"### {self.title}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"

    def frame(self) -> pd.DataFrame:
        """Return the texts, without marks."""
        return pd.DataFrame([map(str, row) for row in self.rows], columns=self.header)


def figure_cell(cell: Mapping[Hashable, Any], rank: int = 0, *, with_categories: bool = False) -> Cell:
    """Return a figure, such as ``"94.1±2.1 published"`` or ``"93.8±0.9 measured, n=5"``.

    It is a row of :func:`measured_cells` or :func:`published_cells`, with its rank and perhaps with its categories.
    """
    if pd.isna(cell["mean"]):
        return Cell(f"only {cell['categories']} categories measured", source=MEASURED)
    note = str(cell["source"])
    if note == MEASURED:
        note += f", n={cell['seeds']:.0f}"
        if with_categories:
            note += f", {cell['categories']:.0f} " + ("category" if cell["categories"] == 1 else "categories")
    text = f"{cell['mean']:.1f}" + ("" if pd.isna(cell["std"]) else f"±{cell['std']:.1f}")
    return Cell(text, round(cell["mean"], 1), cell["source"], note, rank)


def category_tables(measured: pd.DataFrame, published: pd.DataFrame) -> list[TextTable]:
    """Return one table per data set, setting, metric and number of shots: a row per category, and their mean.

    A method of the paper that is measured, too, gets a column beside ours.
    """
    tables = dict(groups(measured, *TABLE))
    metrics = list(measured["metric"].unique())
    shots = sorted_shots(measured["shots"].unique())
    order = sorted(tables, key=lambda key: (*key[:2], metrics.index(key[2]), shots.index(key[3])))
    return [_category_table(dict(zip(TABLE, key, strict=True)), tables[key], published) for key in order]


def _category_table(key: dict[str, str], measured: pd.DataFrame, published: pd.DataFrame) -> TextTable:
    for name in ("dataset", "metric", "shots"):
        published = published[published[name] == key[name]]
    columns: list[tuple[str, pd.DataFrame]] = []
    for (method,), cells in groups(measured, "method"):
        columns.append((method, cells))
        for (setting,), beside in groups(published[published["key"].isin(cells["key"])], "setting", sort=True):
            columns.append((f"{beside['method'].iloc[0]}, paper ({setting})", beside))
    rows = []
    for category in [*sorted(set(measured["category"]) - {MEAN}), MEAN]:
        found = [cells[cells["category"] == category].head(1).assign(column=name) for name, cells in columns]
        line = pd.concat(found).set_index("column")
        best, known = ranks(line), dict(zip(line.index, line.to_dict("records"), strict=True))
        figures = [figure_cell(known[name], best.get(name, 0)) if name in known else Cell("") for name, _ in columns]
        rows.append([Cell(category), *figures])
    title = f"{key['dataset']}, {key['setting']}, {key['metric']}, {shots_text(key['shots'])}"
    return TextTable(title, ["Category", *(name for name, _ in columns)], rows)


def summary_tables(
    measured: pd.DataFrame,
    published: pd.DataFrame,
    without_memory: Collection[str] = (),
    transfer: Collection[str] = (),
) -> list[TextTable]:
    """Return one table per data set and setting: a row per method, ours and the paper's of the same, with its means.

    Methods that were given no memory, beside others, have a table of their own, as the paper's Table 2; those that
    learned from other data before the shots are marked as transfer, as in its Table 1.
    """
    cells = pd.concat([measured, published], ignore_index=True)
    means = cells[cells["category"] == MEAN].copy()
    means["shown"] = means["method"].where(
        ~means["method"].isin({*TRANSFER, *transfer}), means["method"] + " (transfer)"
    )
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
    """Return the table of one data set and setting, ours first; a measured mean says over how many categories it is."""
    ours = means[means["source"] == MEASURED]
    columns = [(metric, shots) for metric in ours["metric"].unique() for shots in sorted_shots(ours["shots"].unique())]
    rows: dict[tuple[str, str], list[Cell]] = {}
    for number, (metric, shots) in enumerate(columns):
        column = means[(means["metric"] == metric) & (means["shots"] == shots)]
        best = ranks(column)
        for index, cell in column.iterrows():
            row = rows.setdefault((cell["shown"], cell["source"]), [Cell("")] * len(columns))
            row[number] = figure_cell(cell.to_dict(), best.get(index, 0), with_categories=True)
    order = sorted(rows, key=lambda row: row[1] == PUBLISHED)
    lines = [[Cell(method), *rows[method, source]] for method, source in order]
    return TextTable(title, ["Method", *(f"{metric}, {shots_text(shots)}" for metric, shots in columns)], lines)


def verdict_table(results: Results) -> TextTable:
    """Return the wrong verdicts of every job by category and class, counted, with their bounds.

    Jobs stand by themselves: those of several seeds judge the same parts, and do not add up to more of them. Where the
    threshold was fitted to the parts that were judged, counts promise nothing for others, and have no bounds.
    """
    done = results.done.reindex(columns=list(dict.fromkeys([*results.jobs, "verdicts"])))  # older rows have none
    rows = []
    for job in done.dropna(subset="verdicts").to_dict("records"):
        names = [Cell(str(job[name])) for name in ("method", "dataset", "k_shot", "seed")]
        verdicts = json.loads(job["verdicts"] or '{"categories": {}}')
        for category, counted in verdicts["categories"].items():
            say = _without_bound if verdicts["fitted_to_these"] else str
            rates = {name: Rate(*numbers) for name, numbers in counted.items()}
            defects = {name: rate for name, rate in rates.items() if name != GOOD}
            escapes = together(defects.values())
            by_class = "; ".join(f"{name} {say(rate)}" for name, rate in defects.items())
            found = [Cell(say(rate), rate.value if rate.n else None) for rate in (rates.get(GOOD, Rate(0, 0)), escapes)]
            fitted = "yes, hence no bound" if verdicts["fitted_to_these"] else "no"
            rows.append([*names, Cell(category), Cell(fitted), *found, Cell(by_class)])
    header = ["Method", "Data set", "Shots", "Seed", "Category", "Threshold fitted to these parts"]
    header += ["False alarms", "Escapes", "Escapes by defect"]
    return TextTable("Wrong verdicts at the threshold, counted per job, exact one-sided bounds", header, rows)


def _without_bound(rate: Rate) -> str:
    return f"{rate.k} of {rate.n}" + (f" ({percent(rate.value)})" if rate.n else "")


def robustness_tables(values: pd.DataFrame) -> list[TextTable]:
    """Return one table per data set, setting, shots and metric: how it falls under each corruption, by severity."""
    split = values["metric"].str.extract(r"^(?P<base>\w+)@(?P<kind>[a-z]+)(?P<severity>\d)$")
    found = pd.concat([values, split], axis="columns").dropna(subset=["base"])
    tables = []
    for (dataset, setting, shots, metric), part in groups(found, "dataset", "setting", "shots", "base"):
        means = part.groupby(["method", "kind", "severity"], sort=False)["value"].mean().unstack()
        rows = [
            [Cell(str(method)), Cell(str(kind)), *(Cell(f"{value:.1f}", value) for value in line)]
            for (method, kind), line in zip(means.index, means.to_numpy(), strict=True)
        ]
        title = f"{dataset}, {setting}, {shots_text(shots)}, {metric} under corruptions, by severity"
        tables.append(TextTable(title, ["Method", "Corruption", *map(str, means.columns)], rows))
    return tables


def cost_table(results: Results) -> TextTable:
    """Return the costs of the methods: the median over all jobs of a method that succeeded, all of it measured."""
    done = results.done.reindex(columns=list(dict.fromkeys([*results.jobs, *COSTS])))  # older rows have fewer
    shown = {cost: heading for cost, (heading, _) in COSTS.items() if pd.to_numeric(done[cost]).notna().any()}
    rows = []
    for (method, dataset, setting), jobs in groups(done, "method", "dataset", "setting"):
        accelerators = ", ".join(jobs["accelerator"].unique())
        costs = [_cost_cell(pd.to_numeric(jobs[cost]).median()) for cost in shown]
        names = [Cell(text) for text in (method, dataset, setting, accelerators)]
        rows.append([*names, Cell(str(len(jobs)), len(jobs)), *costs])
    header = ["Method", "Data set", "Setting", "Accelerator", "Jobs", *shown.values()]
    return TextTable("Costs per job, median, measured", header, rows)


def _cost_cell(value: float) -> Cell:
    """Return a number with at least three digits, whole ones without a point; nothing for ``NaN``."""
    if pd.isna(value):
        return Cell("")
    return Cell(f"{value:,.0f}" if value >= PERCENT or value == int(value) else f"{value:.2f}", value)


def _escaped(cell: str) -> str:
    """Return a cell whose bars are no borders of a Markdown table."""
    return cell.replace("|", "\\|")


def gaps(results: Results, *, with_failed: bool = True) -> list[str]:
    """Name the missing jobs, seeds and categories of a comparison, and the jobs that failed, one line per gap."""
    failed = [f"Failed: {_name(group)}: {key[-1]}" for key, group in groups(results.failed, *JOB, "error")]
    missing = (
        [] if results.missing.empty else [f"Not run: {_name(group)}." for _, group in groups(results.missing, *JOB)]
    )
    others = [*missing, *_missing_seeds(results.values), *_missing_categories(results.values)]
    return [*failed, *others] if with_failed else others


def _missing_seeds(values: pd.DataFrame) -> Iterator[str]:
    """Name the seeds and the categories that another method of the same table has and this one lacks."""
    for key, table in groups(values, "dataset", "setting", "shots"):
        where = f"on {key[0]}, {key[1]}, {shots_text(key[2])}"
        wanted = {category: set(rows["seed"]) for (category,), rows in groups(table, "category", sort=True)}
        for (method,), own in groups(table, "method"):
            for category, seeds in wanted.items():
                missing = sorted(seeds - set(own.loc[own["category"] == category, "seed"]))
                if missing:
                    yield f"Missing seeds: {method} {where}, {category}: {', '.join(missing)}."
        single = sorted(category for category, seeds in wanted.items() if len(seeds) == 1)
        if single:
            yield f"One seed only, hence no standard deviation: {where}, {', '.join(single)}."


def _missing_categories(values: pd.DataFrame) -> Iterator[str]:
    """Name the categories of the paper's data sets that nothing was measured on."""
    published = load_published()
    published = published[published["category"] != MEAN]
    for (dataset, setting), own in groups(values, "dataset", "setting"):
        known = set(published.loc[published["dataset"] == dataset, "category"])
        missing = sorted(known - set(own["category"]))
        if missing:
            yield (
                f"Missing categories: {dataset}, {setting}: {', '.join(missing)}. "
                f"Its means are over {len(known) - len(missing)} of {len(known)} categories, the paper's over all."
            )


def _name(jobs: pd.DataFrame) -> str:
    """Return the method, the data, the shots and the seeds of jobs that differ in their seeds alone."""
    first = jobs.iloc[0]
    data = f"{first['dataset']} {', '.join(split_categories(first['categories']))}".rstrip()
    return f"{first['method']} on {data}, {shots_text(first['k_shot'])}, seed {', '.join(jobs['seed'])}"
