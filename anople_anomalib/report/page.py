# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The report as one HTML page that needs nothing beside it: no file, no network."""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from anople_anomalib.pipeline.results import EXAMPLES
from anople_anomalib.pipeline.settings import split_categories

from .cells import shots_text
from .groups import groups
from .measured import MEASURED, Results
from .plots import as_svg
from .published import MEAN, PUBLISHED
from .tables import TextTable

_NUMBER = re.compile(r"-?[\d,]*\.?\d+")
_FAILED_HEADER = ("Method", "Data set", "Categories", "Shots", "Seed", "Error")


class Cell(NamedTuple):
    """A cell of a table on the page.

    Attributes:
        text: What stands in it; of a figure, the number with its deviation.
        note: What stands behind it in small letters: where the figure comes from.
        number: What it is sorted by; ``None`` for text.
        kind: Names of its classes: where it comes from, and its rank.
    """

    text: str
    note: str
    number: float | None
    kind: str


class Examples(NamedTuple):
    """Anomaly maps of the methods on one data set: a picture as a data address, by category and method."""

    title: str
    methods: list[str]
    pictures: dict[str, dict[str, str]]


def render(tables: Sequence[TextTable], missing: Sequence[str], plots: Mapping[str, Figure], results: Results) -> str:
    """Return the page: failures first, then what is missing, the tables, the plots, and example maps.

    Args:
        tables: The tables, the most important first.
        missing: What the comparison lacks.
        plots: The plots by name.
        results: The results.
    """
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    failed = results.failed
    columns = ["method", "dataset", "categories", "k_shot", "seed", "error"]
    return environment.get_template("page.html").render(
        counts=(len(results.done), len(failed), len(results.missing)),
        failed=(_FAILED_HEADER, [[_cell((text, None)) for text in row] for row in failed[columns].to_numpy()])
        if len(failed)
        else None,
        missing=missing,
        tables=[_page_table(table) for table in tables],
        plots=[Markup(as_svg(figure, name)) for name, figure in plots.items()],  # noqa: S704  # drawn here
        examples=_examples(results),
    )


def _page_table(table: TextTable) -> dict[str, object]:
    """Return a table as the template takes it; a row of means stays below when the others are sorted."""
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    is_mean = [row[0][0] == MEAN for row in table.rows]
    return {
        "title": table.title,
        "header": table.header,
        "rows": [row for row, mean in zip(rows, is_mean, strict=True) if not mean],
        "means": [row for row, mean in zip(rows, is_mean, strict=True) if mean],
    }


def _cell(cell: tuple[str, int | None]) -> Cell:
    """Take a cell's text apart."""
    text, rank = str(cell[0]), cell[1]
    source = next((source for source in (MEASURED, PUBLISHED) if f" {source}" in text), "")
    number = _NUMBER.match(text)
    value = float(number[0].replace(",", "")) if number and (source or number[0] == text) else None
    shown, _, note = text.partition(" ") if value is not None else (text, "", "")
    return Cell(shown, note, value, " ".join(filter(None, [source, f"rank{rank}" if rank else ""])))


def _examples(results: Results) -> list[Examples]:
    """Return the pictures that the jobs left: of every method and category those of the fewest shots and first seed."""
    found = []
    for (dataset, setting), jobs in groups(results.done, "dataset", "setting"):
        jobs = jobs.assign(k=jobs["k_shot"].str.zfill(9), s=jobs["seed"].str.zfill(9)).sort_values(["k", "s"])
        pictures: dict[str, dict[str, str]] = {}
        for job in jobs.to_dict("records"):
            for category in split_categories(job["categories"]):
                examples = results.folders[job["job_id"]] / EXAMPLES
                path = examples / job["job_id"] / f"{category}.jpg"
                if path.is_file() and path.resolve().is_relative_to(examples.resolve()):  # of a stranger's, too
                    address = f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
                    pictures.setdefault(category, {}).setdefault(job["method"], address)
        if pictures:
            methods = [method for method in jobs["method"].unique() if any(method in row for row in pictures.values())]
            fewest = shots_text(jobs["k_shot"].iloc[0])
            title = f"{dataset}, {setting}, {fewest}, seed {jobs['seed'].iloc[0]}"
            found.append(Examples(title, methods, dict(sorted(pictures.items()))))
    return found
