# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Statistics of a comparison: scores of images against plain counts, and what tests say of methods that are known."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from anople_anomalib.pipeline.results import SCORES
from anople_anomalib.report.page import write_report
from anople_anomalib.report.results import Results
from anople_anomalib.report.statistics import auroc, false_alarms, interval, load_scores, paired_test, statistics_of
from helpers.result_rows import job, results

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
    for images in (20, 500):
        anomalous = np.arange(2 * images) < images
        values = RNG.normal(anomalous.astype(float))
        low, high = interval([(values[None], anomalous)])
        assert low < counted(values, anomalous) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert interval([(values[None, images - 1 :], anomalous[images - 1 :])]) is None


def test_an_interval_over_draws_is_wider_where_they_differ() -> None:
    anomalous = np.arange(200) < 100
    noise = RNG.normal(size=200)
    alike, apart = np.stack([noise + anomalous] * 2), np.stack([noise + anomalous, noise])
    (low, high), (lower, higher) = interval([(alike, anomalous)]), interval([(apart, anomalous)])
    assert higher - lower > 2 * (high - low)


def test_an_interval_is_that_of_a_plain_bootstrap_of_pairs_with_ties() -> None:
    anomalous = np.arange(60) % 3 == 0
    values = RNG.integers(0, 6, (2, 60)) + anomalous
    found = []
    for _ in range(2000):
        rows, *kinds = (
            RNG.choice(each, len(each)) for each in (np.arange(2), *map(np.flatnonzero, (anomalous, ~anomalous)))
        )
        images = np.concatenate(kinds)
        found.append(np.mean([auroc(values[row, images], anomalous[images]) for row in rows]))
    assert interval([(values, anomalous)]) == pytest.approx(np.percentile(found, [2.5, 97.5]), abs=0.03)


def test_an_interval_of_a_large_comparison_takes_no_pairs_of_images() -> None:
    anomalous = np.arange(6000) < 3000
    tracemalloc.start()
    interval([(RNG.normal(size=(1, 6000)) + anomalous, anomalous)])
    assert tracemalloc.get_traced_memory()[1] < 20e6  # a matrix of all pairs has 72e6 bytes
    tracemalloc.stop()


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


def test_the_difference_of_several_draws_is_that_of_their_mean_aurocs() -> None:
    anomalous = np.arange(40) % 2 == 0
    one, two = (RNG.normal(size=(3, 40)) + shift * anomalous for shift in (0.5, 1.5))
    difference, probability = paired_test({"a": (one, two, anomalous)})
    assert difference == pytest.approx(auroc(one, anomalous).mean() - auroc(two, anomalous).mean())
    same = paired_test({"a": (one[:1], two[:1], anomalous)})
    assert paired_test({"a": (one[[0, 0]], two[[0, 0]], anomalous)}) == pytest.approx(same)
    assert probability != pytest.approx(same[1])


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


def test_without_a_draw_of_all_categories_there_is_no_interval() -> None:
    table = scores({"One": 1.0}, categories="ab")
    (intervals, *_), _ = statistics_of(table[(table["category"] == "a") == (table["seed"] == "0")])
    assert str(intervals.rows[0][2]) == ""
    assert str(intervals.rows[0][1])


def test_methods_that_are_tied_everywhere_have_no_ranks() -> None:
    one = scores({"One": 1.0})
    tables, plots = statistics_of(pd.concat([one.assign(method=name) for name in ("One", "Two", "Three")]))
    assert not plots
    assert not any("Friedman" in table.title for table in tables)


def kept(folder: Path, *jobs: dict[str, Any], values: pd.DataFrame | None = None) -> Results:
    """The results of jobs that all kept the same scores."""
    own = scores({"One": 1.0}, categories="a", seeds="0") if values is None else values
    found = results(folder, jobs)
    for row in jobs:
        path = folder / SCORES / f"{row['job_id']}.parquet"
        path.parent.mkdir(exist_ok=True)
        own[["category", "image", "defect", "anomalous", "score", "threshold"]].to_parquet(path)
    return found


def seeded(name: str, data: dict[str, int], model: dict[str, Any], **others: object) -> dict[str, Any]:
    """A job whose data or model have seeds of their own."""
    row = job(job_id=name, category="a", image_AUROC=0.9, init_args=model, **others)
    config = json.loads(row["config"])
    config["data"]["init_args"] |= data
    return row | {"config": json.dumps(config)}


@pytest.mark.parametrize(
    ("data", "model", "draws"),
    [
        ("seed", "", ["0/0", "0/1"]),
        ("", "training_seed", ["0/training 0", "0/training 1"]),
        ("", "training", ["0/training 0", "0/training 1"]),
        ("", "seed", ["0/model 0", "0/model 1"]),
    ],
)
def test_draws_by_seeds_of_data_or_model_stay_apart(tmp_path: Path, data: str, model: str, draws: list[str]) -> None:
    jobs = []
    for seed in (0, 1):
        own = {model: {"seed": seed} if model == "training" else seed} if model else {}
        jobs.append(seeded(f"job{seed}", {data: seed} if data else {}, own))
    found = kept(tmp_path, *jobs)
    assert found.values["seed"].tolist() == draws
    table = load_scores(found)
    assert table["seed"].unique().tolist() == draws
    (intervals, *_), _ = statistics_of(table)
    assert " to " in str(intervals.rows[0][2])


def test_a_job_that_is_repeated_with_corruptions_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    robust = {"image_AUROC@lamp1": 0.5}
    found = kept(tmp_path, seeded("plain", {}, {}), seeded("robust", {}, {}, **robust))
    assert found.values[["metric", "job_id"]].to_numpy().tolist() == [
        ["image_AUROC", "plain"],
        ["image_AUROC@lamp1", "robust"],
    ]
    assert "not of robust" in caplog.text
    table = load_scores(found)
    assert table["job_id"].unique().tolist() == ["plain"]
    assert statistics_of(table)[0]


def test_a_score_that_is_no_number_leaves_its_category_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = scores({"One": 1.0}, categories="ab", seeds="0")
    values.loc[3, "score"] = math.nan
    table = load_scores(kept(tmp_path, seeded("broken", {}, {}), values=values))
    assert table["category"].unique().tolist() == ["b"]
    assert "Job broken has scores that are no numbers: without a." in caplog.text


def test_scores_without_statistics_cost_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = kept(tmp_path, seeded("odd", {}, {}))
    path = tmp_path / SCORES / "odd.parquet"
    table = pd.read_parquet(path)
    pd.concat([table, table]).to_parquet(path)  # every image twice
    page = write_report(found, tmp_path / "report")
    assert "Costs per job" in page.read_text()
    assert "no statistics of these scores" in caplog.text
