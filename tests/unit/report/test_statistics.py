# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Statistics of a comparison: scores of images against plain counts, and what tests say of methods that are known."""

import math

import numpy as np
import pandas as pd
import pytest

from anople_anomalib.report.statistics import auroc, false_alarms, interval, paired_test, statistics_of

RNG = np.random.default_rng(0)


def scores(shifts: dict[str, float], categories: str = "abc", seeds: str = "01", images: int = 24) -> pd.DataFrame:
    """Scores of methods whose anomalous images are shifted: half of the images, of two kinds of defects."""
    rows = []
    for category in categories:
        noise = RNG.normal(size=images)  # of the images, for all methods
        for method, shift in shifts.items():
            for seed in seeds:
                own = noise + RNG.normal(scale=0.3, size=images)
                for number, value in enumerate(own):
                    defect = ("good", "hole", "good", "spot")[number % 4]
                    found = (category, f"{number}.png", defect, defect != "good")
                    rows.append(
                        (*found, value + shift * (defect != "good"), 1.5, method, "Data", "one-class", seed, "1")
                    )
    columns = ["category", "image", "defect", "anomalous", "score", "threshold"]
    return pd.DataFrame(rows, columns=[*columns, "method", "dataset", "setting", "seed", "shots"])


def counted(values: np.ndarray, anomalous: np.ndarray) -> float:
    """AUROC by its definition: how often an anomalous score is above a normal one."""
    pairs = [(a > n) + 0.5 * (a == n) for a in values[anomalous] for n in values[~anomalous]]
    return float(np.mean(pairs))


def test_auroc_counts_pairs() -> None:
    values, anomalous = RNG.integers(0, 5, 30).astype(float), np.arange(30) % 3 == 0
    assert auroc(values, anomalous) == pytest.approx(counted(values, anomalous))
    both = np.stack([values, -values])
    assert auroc(both, anomalous).sum() == pytest.approx(1)


def test_false_alarms_are_those_where_95_percent_of_the_defects_are_found() -> None:
    values = np.array([*np.arange(100.0), *np.arange(4.0, 104.0)])
    anomalous = np.arange(200) >= 100
    reached = max(t for t in values if (values[anomalous] >= t).mean() >= 0.95)
    assert false_alarms(values, anomalous) == (values[~anomalous] >= reached).mean()


def test_an_interval_holds_the_value_and_narrows_with_the_images() -> None:
    widths = []
    for images in (10, 200):
        defective, good = RNG.normal(1, 1, (2, images)), RNG.normal(0, 1, (2, images))
        wins = (defective[:, :, None] > good[:, None]).astype(float)
        low, high = interval([wins])
        assert low < wins.mean() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert interval([wins[:, :1]]) is None


def test_an_interval_over_draws_is_wider_where_they_differ() -> None:
    draw = (RNG.normal(1, 1, (1, 100, 1)) > RNG.normal(0, 1, (1, 1, 100))).astype(float)
    alike, apart = np.concatenate([draw, draw]), np.concatenate([draw, 0.5 * draw])
    (low, high), (lower, higher) = interval([alike]), interval([apart])
    assert higher - lower > 2 * (high - low)


def test_a_paired_test_tells_methods_apart_that_differ_and_no_others() -> None:
    anomalous = np.arange(60) % 2 == 0
    good = np.argsort(np.argsort(RNG.normal(size=60) + 2 * anomalous)).astype(float)
    poor = np.argsort(np.argsort(RNG.normal(size=60))).astype(float)
    difference, probability = paired_test({"a": (good, poor, anomalous)})
    assert difference == pytest.approx(counted(good, anomalous) - counted(poor, anomalous))
    assert probability < 0.05
    assert paired_test({"a": (poor, poor, anomalous)}) == (0, 1)


def placements(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each anomalous score is above the good ones, and each good one below the others."""
    above = np.array([[(x > y) + 0.5 * (x == y) for y in scores[~anomalous]] for x in scores[anomalous]], dtype=float)
    return above.mean(axis=1), above.mean(axis=0)


def test_the_paired_test_is_delongs_with_variances_that_add_up_over_categories() -> None:
    ranks, variances, differences = {}, [], []
    for category in "ab":
        anomalous = np.arange(30) % 3 == 0
        one, two = (RNG.integers(0, 9, 30) + shift * anomalous for shift in (1.0, 3.0))
        ranks[category] = (one, two, anomalous)
        (v10, v01), (w10, w01) = placements(one, anomalous), placements(two, anomalous)
        differences.append(v10.mean() - w10.mean())
        variances.append(np.var(v10 - w10, ddof=1) / len(v10) + np.var(v01 - w01, ddof=1) / len(v01))
    z = np.mean(differences) / (np.sqrt(sum(variances)) / 2)
    expected = np.mean(differences), math.erfc(abs(z) / math.sqrt(2))
    assert paired_test(ranks) == pytest.approx(expected)


def test_a_paired_test_without_variance_has_no_probability() -> None:
    anomalous = np.array([True, True, False, False])
    difference, probability = paired_test({"a": (np.arange(4.0)[::-1], np.arange(4.0), anomalous)})
    assert difference == 1
    assert math.isnan(probability)


def test_tables_name_what_was_counted() -> None:
    table = scores({"Best": 3.0, "Middle": 1.0, "Worst": 0.0})
    tables, plots = statistics_of(table)
    intervals, defects, pairs, ranks = tables
    best, header = [str(cell) for cell in intervals.rows[0]], intervals.header
    own = table[table["method"] == "Best"]
    expected = [
        counted(part["score"].to_numpy(), part["anomalous"].to_numpy()) for _, part in own.groupby(["category", "seed"])
    ]
    assert best[:2] == ["Best", f"{100 * np.mean(expected):.1f}"]
    low, high = map(float, best[2].split(" to "))
    assert low <= 100 * np.mean(expected) <= high
    good = own[~own["anomalous"]]
    assert best[header.index("Good called good")] == f"{100 * (good['score'] <= 1.5).mean():.1f}"
    assert [(str(row[0]), str(row[1])) for row in defects.rows][:2] == [("a", "hole"), ("a", "spot")]
    assert [(str(row[0]), str(row[1])) for row in pairs.rows] == [
        ("Best", "Middle"),
        ("Best", "Worst"),
        ("Middle", "Worst"),
    ]
    assert [str(row[1]) for row in ranks.rows] == ["1.00", "2.00", "3.00"]
    assert "Friedman chi2 = 6.00" in ranks.title  # of three methods in one order in all of three categories
    assert list(plots) == ["critical_difference_Data_one-class_1"]


def test_few_categories_have_no_ranks_and_no_scores_no_tables() -> None:
    tables, plots = statistics_of(scores({"One": 1.0, "Other": 0.5}, categories="a"))
    assert (len(tables), plots) == (3, {})
    assert statistics_of(pd.DataFrame()) == ([], {})


def test_without_a_threshold_nothing_is_called() -> None:
    (intervals, *_), _ = statistics_of(scores({"One": 1.0}, seeds="0").assign(threshold=np.nan))
    assert [str(cell) for cell in intervals.rows[0][-2:]] == ["", ""]
