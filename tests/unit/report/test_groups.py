# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

import pandas as pd

from anople_anomalib.report.groups import groups

TABLE = pd.DataFrame({"method": ["b", "a", "b"], "shots": ["1", "1", "2"], "value": [1.0, 2.0, 3.0]})


def test_groups_come_in_the_order_of_their_first_rows_or_sorted() -> None:
    assert [key for key, _ in groups(TABLE, "method")] == [("b",), ("a",)]
    assert [key for key, _ in groups(TABLE, "method", sort=True)] == [("a",), ("b",)]


def test_a_group_holds_the_rows_that_share_the_text_of_all_columns() -> None:
    values = {key: rows["value"].tolist() for key, rows in groups(TABLE, "method", "shots")}
    assert values == {("b", "1"): [1.0], ("a", "1"): [2.0], ("b", "2"): [3.0]}


def test_an_empty_table_has_no_groups() -> None:
    assert list(groups(TABLE.head(0), "method", "shots")) == []
