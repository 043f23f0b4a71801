# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Rows of a table that belong together."""

from collections.abc import Iterator

import pandas as pd


def groups(table: pd.DataFrame, *columns: str, sort: bool = False) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Take a table apart by the text in some of its columns.

    Args:
        table: The table.
        columns: Names of columns of text.
        sort: Whether to sort the groups; otherwise they come in the order of their first rows.

    Yields:
        The text that the rows of a group share, one per column, and these rows.
    """
    for key, rows in table.groupby(list(columns), sort=sort):
        yield tuple(str(part) for part in key), rows
