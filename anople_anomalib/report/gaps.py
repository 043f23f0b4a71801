# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a comparison lacks: failed and missing jobs, seeds and categories."""

from collections.abc import Iterator

import pandas as pd

from anople_anomalib.pipeline.settings import split_categories

from .cells import shots_text
from .groups import groups
from .measured import Results
from .published import MEAN, load_published

JOB = ["method", "dataset", "categories", "k_shot"]
GROUP = ["dataset", "setting", "shots"]


def gaps(results: Results, with_failed: bool = True) -> list[str]:
    """Name what is missing.

    Args:
        results: The results.
        with_failed: Whether to name the jobs that failed, too.

    Returns:
        One line per gap, in Markdown; none if nothing is missing.
    """
    others = [*_not_run(results.missing), *_seeds(results.values), *_categories(results)]
    return [*_failed(results.failed), *others] if with_failed else others


def _failed(jobs: pd.DataFrame) -> Iterator[str]:
    """Name every job that failed, with its error, the seeds of one method in one line."""
    for key, group in groups(jobs, *JOB, "error"):
        yield f"Failed: {_name(group)}: {key[-1]}"


def _not_run(jobs: pd.DataFrame) -> Iterator[str]:
    """Name the planned jobs without a result, the seeds of one method in one line."""
    if not jobs.empty:
        for _, group in groups(jobs, *JOB):
            yield f"Not run: {_name(group)}."


def _seeds(values: pd.DataFrame) -> Iterator[str]:
    """Name the seeds and the categories that another method of the same table has and this one lacks."""
    for key, table in groups(values, *GROUP):
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


def _categories(results: Results) -> Iterator[str]:
    """Name the categories of the paper's data sets that nothing was measured on."""
    published = load_published()
    published = published[published["category"] != MEAN]
    for (dataset, setting), values in groups(results.values, "dataset", "setting"):
        known = set(published.loc[published["dataset"] == dataset, "category"])
        missing = sorted(known - set(values["category"]))
        if missing:
            yield (
                f"Missing categories: {dataset}, {setting}: {', '.join(missing)}. "
                f"Its means are over {len(known) - len(missing)} of {len(known)} categories, the paper's over all."
            )


def _name(jobs: pd.DataFrame) -> str:
    """Return the method, the data, the shots and the seeds of jobs that differ in their seeds alone."""
    first = jobs.iloc[0]
    categories = ", ".join(split_categories(first["categories"]))
    data = f"{first['dataset']} {categories}".rstrip()
    return f"{first['method']} on {data}, {shots_text(first['k_shot'])}, seed {', '.join(jobs['seed'])}"
