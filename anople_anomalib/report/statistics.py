# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Statistics of a comparison, from the scores of its images: intervals, paired tests, ranks, and verdicts.

SciPy and scikit-posthocs (extra ``compare``) compute the intervals and the tests over categories.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import bootstrap, friedmanchisquare, norm, rankdata

from anople_anomalib.pipeline.results import SCORES

from .cells import groups, shots_text
from .results import PERCENT, Results
from .tables import Cell, TextTable

logger = logging.getLogger(__name__)

RESAMPLES = 999
RECALL = 95  # percent of the defects, at which false alarms are counted
_SETTING = ("dataset", "setting", "shots")
_FEWEST = 3  # methods and categories that ranks take
_ROUNDING = 1e-12  # of a sum of shares that is 0


def load_scores(results: Results) -> pd.DataFrame:
    """Return the scores of all images of the jobs that kept theirs, with the columns of :class:`.ImageScore`.

    Beside them ``threshold``, ``method``, ``dataset``, ``setting``, ``shots``, ``seed`` (the draw) and ``job_id``. Of
    jobs with the same of all these the first counts. A category with a score that is no number is left out of its job.
    """
    found = []
    for job in results.done.to_dict("records"):
        path = results.folders[job["job_id"]] / SCORES / f"{job['job_id']}.parquet"
        if path.is_file():
            known = {name: job[name] for name in ("method", "dataset", "setting", "job_id")}
            table = pd.read_parquet(path).assign(shots=job["k_shot"], seed=job["draw"], **known)
            if broken := sorted(set(table.loc[table["score"].isna(), "category"])):
                logger.warning("Job %s has scores that are no numbers: without %s.", job["job_id"], ", ".join(broken))
            found.append(table[~table["category"].isin(broken)])
    if not found:
        return pd.DataFrame()
    scores = pd.concat(found, ignore_index=True)
    first = scores.groupby([*_SETTING, "method", "category", "seed"])["job_id"].transform("first")
    return scores[scores["job_id"] == first]


def statistics_of(scores: pd.DataFrame) -> tuple[list[TextTable], dict[str, Figure]]:
    """Return tables and critical-difference diagrams of the scores of :func:`load_scores`."""
    tables: list[TextTable] = []
    plots: dict[str, Figure] = {}
    for key, table in groups(scores, *_SETTING) if len(scores) else ():
        title = f"{key[0]}, {key[1]}, {shots_text(key[2])}"
        means = _aurocs(table).groupby(["category", "method"], sort=False)["auroc"].mean().unstack()
        tables += [_interval_table(title, table), _defect_table(title, table)]
        tables += [_pair_table(title, table)] if means.shape[1] > 1 else []
        complete = means.dropna(axis="index")
        if min(complete.shape) >= _FEWEST and (complete.nunique(axis="columns") > 1).any():
            tables.append(_rank_table(title, complete))
            plots["critical_difference_" + "_".join(key)] = _rank_plot(title, complete)
    return tables, plots


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve, shape ``(...)``, in [0, 1], by Mann and Whitney's ranks.

    Scores have the shape ``(..., N)``, ``anomalous`` has ``(N,)`` and both kinds.
    """
    ranks, number = rankdata(scores, axis=-1), int(anomalous.sum())
    return (ranks[..., anomalous].sum(axis=-1) - number * (number + 1) / 2) / (number * (len(anomalous) - number))


def false_alarms(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the share of good images at or above the score that 95 % of the defective ones reach."""
    descending = np.sort(scores[anomalous])[::-1]
    reached = descending[-(-RECALL * len(descending) // PERCENT) - 1]
    return float((scores[~anomalous] >= reached).mean())


def interval(tables: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float] | None:
    """Return a 95 % interval of the mean AUROC over categories: both images and draws of the shots are drawn anew.

    Args:
        tables: By category the scores, shape ``(draws, N)``, and whether each image is anomalous, shape ``(N,)``. Every
            category has the same draws.

    Returns:
        Percentiles of the bootstrap; ``None`` where a category has a single image of a kind, or there is no draw.
    """
    draws = len(tables[0][0])
    samples = [np.arange(size) for _, kinds in tables for size in (kinds.sum(), (~kinds).sum())]
    if not draws or min(map(len, samples)) < 2:
        return None
    # A place for every score of every draw, in ascending order: to count the good ones below takes no pairs of images.
    places = [rankdata(s, "dense", axis=-1).astype(int) - 1 + s.shape[1] * np.arange(draws)[:, None] for s, _ in tables]
    split = [(each[:, kinds], each[:, ~kinds]) for each, (_, kinds) in zip(places, tables, strict=True)]

    def mean_auroc(*drawn: np.ndarray) -> float:
        """Return the mean over the categories for one draw of images, and of draws of the shots."""
        rows = drawn[-1] if draws > 1 else np.zeros(1, int)
        found = []
        # not strict: the draws of the shots stand behind
        for (defective, good), first, second in zip(split, drawn[0::2], drawn[1::2], strict=False):
            size = draws * (defective.shape[1] + good.shape[1])
            counts = np.bincount(good[:, second].ravel(), minlength=size).reshape(draws, -1)
            below = counts.cumsum(axis=1) - counts / 2
            found.append(below.ravel()[defective[:, first]].mean(axis=1)[rows].mean() / len(second))
        return float(np.mean(found))

    samples += [np.arange(draws)] if draws > 1 else []
    options = {"vectorized": False, "n_resamples": RESAMPLES, "method": "percentile", "rng": 0}
    found = bootstrap(samples, mean_auroc, batch=1, **options)  # its memory grows with the batch
    return found.confidence_interval.low, found.confidence_interval.high


def paired_test(tables: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Compare two methods on the same images by the test of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988).

    An AUROC is the mean of its images' placements: how many of the other kind an image is rightly above or below. The
    mean AUROC over draws is that of the placements' means over draws, and so has the same test; with one draw it is
    DeLong's. The draws count as given: the test is of other images, not of other shots.

    Args:
        tables: By category the scores of the images by the one method and by the other, shape ``(draws, N)``, and
            whether each is anomalous, shape ``(N,)``, two images or more of either kind.

    Returns:
        The difference of the mean AUROC over draws and categories, and the two-sided probability of one as large where
        there is none: categories have no images in common, so that the variances of their differences add up. ``NaN``
        where all of these are 0 though the methods differ.
    """
    differences, variances = [], []
    for first, second, anomalous in tables.values():
        pairs = zip(_placements(first, anomalous), _placements(second, anomalous), strict=True)
        kinds = [one - two for one, two in pairs]
        differences.append(kinds[0].mean())
        variances.append(sum(kind.var(ddof=1) / len(kind) for kind in kinds))
    difference, deviation = float(np.mean(differences)), sum(variances) ** 0.5 / len(variances)
    if deviation < _ROUNDING:
        return difference, float("nan") if abs(difference) > _ROUNDING else 1.0
    return difference, float(2 * norm.sf(abs(difference) / deviation))


def _placements(scores: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of good images below each anomalous one, of anomalous above each good one: means over draws."""
    ranks = rankdata(np.atleast_2d(scores), axis=-1)
    found = [ranks[:, own] - rankdata(ranks[:, own], axis=-1) for own in (anomalous, ~anomalous)]
    return found[0].mean(axis=0) / (~anomalous).sum(), 1 - found[1].mean(axis=0) / anomalous.sum()


def _aurocs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method, category and seed, with AUROC and false alarms, where there are images of both kinds."""
    rows = []
    for (method, category, seed), own in groups(scores, "method", "category", "seed"):
        values, anomalous = own["score"].to_numpy(), own["anomalous"].to_numpy(bool)
        if 0 < anomalous.sum() < len(anomalous):
            alarms = false_alarms(values, anomalous)
            rows.append((method, category, seed, float(auroc(values, anomalous)), alarms))
    return pd.DataFrame(rows, columns=["method", "category", "seed", "auroc", "false_alarms"])


def _by_category(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the scores of a method by category: a row per image, a column per draw that has them all."""
    return {
        category: own.pivot(index=["anomalous", "image"], columns="seed", values="score").dropna(axis="columns")
        for (category,), own in groups(scores, "category")
    }


def _kinds(table: pd.DataFrame) -> np.ndarray:
    return table.index.get_level_values("anomalous").to_numpy(bool)


def _interval(scores: pd.DataFrame) -> str:
    """Return the interval of one method, over the draws that have all of its categories; nothing where it has none."""
    tables = list(_by_category(scores).values())
    draws = [seed for seed in (tables[0] if tables else ()) if all(seed in table for table in tables)]
    found = interval([(table[draws].to_numpy().T, _kinds(table)) for table in tables]) if draws else None
    return "" if found is None else " to ".join(f"{PERCENT * each:.1f}" for each in found)


def _interval_table(title: str, scores: pd.DataFrame) -> TextTable:
    """Return AUROC with its interval, false alarms at 95 % recall, and shares of right verdicts, of every method."""
    rows, metrics = [], _aurocs(scores)
    for (method,), own in groups(scores, "method"):
        both = own[own["category"].isin(metrics["category"])]
        means = metrics[metrics["method"] == method].groupby("category")[["auroc", "false_alarms"]].mean().mean()
        judged = own.dropna(subset=["threshold"])
        right = (judged["score"] > judged["threshold"]) == judged["anomalous"]
        shares = [right[judged["anomalous"] == kind].mean() for kind in (False, True)]
        figures = [_share(means["auroc"]), Cell(_interval(both)), *map(_share, (means["false_alarms"], *shares))]
        rows.append([Cell(method), *figures])
    header = ["Method", "Image AUROC", "95 % interval", "FPR at 95 % TPR"]
    header += ["Good called good", "Defective called defective"]
    return TextTable(f"{title}, images: intervals over images and draws, and verdicts", header, rows)


def _defect_table(title: str, scores: pd.DataFrame) -> TextTable:
    """Return the AUROC of every kind of defect against the good images of its category, mean over the draws."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (category, method, _), own in groups(scores, "category", "method", "seed"):
        good = own[~own["anomalous"]]
        for (defect,), part in groups(own[own["anomalous"]], "defect", sort=True) if len(good) else ():
            both = pd.concat([good, part])
            value = float(auroc(both["score"].to_numpy(), both["anomalous"].to_numpy(bool)))
            found.setdefault((category, defect), {}).setdefault(method, []).append(value)
    methods = list(scores["method"].unique())
    rows = [
        [Cell(category), Cell(defect), *(_share(np.mean(own[name])) if name in own else Cell("") for name in methods)]
        for (category, defect), own in found.items()
    ]
    return TextTable(f"{title}, image AUROC by kind of defect", ["Category", "Defect", *methods], rows)


def _pair_table(title: str, scores: pd.DataFrame) -> TextTable:
    """Return the paired test of every two methods, over the categories and draws that both have."""
    known = {method: _by_category(own) for (method,), own in groups(scores, "method")}
    rows = []
    for one, two in combinations(known, 2):
        pairs: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for category in known[one].keys() & known[two].keys():
            both = [known[name][category] for name in (one, two)]
            images, draws = both[0].index.intersection(both[1].index), both[0].columns.intersection(both[1].columns)
            first, second = (table.loc[images, draws if len(draws) else table.columns] for table in both)
            anomalous = _kinds(first)
            if first.size and second.size and 1 < anomalous.sum() < len(anomalous) - 1:  # one image has no variance
                pairs[category] = (first.to_numpy().T, second.to_numpy().T, anomalous)
        if pairs:
            difference, probability = paired_test(pairs)
            number = sum(len(anomalous) for *_, anomalous in pairs.values())
            cells = [Cell(f"{PERCENT * difference:+.1f}", difference), _probability(probability)]
            rows.append([Cell(one), Cell(two), *cells, Cell(str(number), number)])
    header = ["Method", "Other method", "Difference of AUROC", "p", "Images"]
    return TextTable(f"{title}, pairs of methods on the same images, DeLong's test", header, rows)


def _rank_table(title: str, means: pd.DataFrame) -> TextTable:
    """Return Friedman's test over the categories, and Nemenyi's probabilities of every two methods."""
    from scikit_posthocs import posthoc_nemenyi_friedman

    test = friedmanchisquare(*means.to_numpy().T)
    lines = zip(means, _mean_ranks(means), posthoc_nemenyi_friedman(means).to_numpy(), strict=True)
    rows = [[Cell(str(name)), Cell(f"{rank:.2f}", rank), *map(_probability, line)] for name, rank, line in lines]
    heading = (
        f"{title}, ranks over {len(means)} categories: Friedman chi2 = {test.statistic:.2f}, p = {test.pvalue:.3f}"
    )
    return TextTable(f"{heading}; Nemenyi's p", ["Method", "Mean rank", *map(str, means)], rows)


def _rank_plot(title: str, means: pd.DataFrame) -> Figure:
    """Draw the critical-difference diagram: methods that a bar joins are not told apart."""
    from scikit_posthocs import critical_difference_diagram, posthoc_nemenyi_friedman

    figure = Figure(figsize=(7, 1.5 + 0.25 * means.shape[1]), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"{title}: mean ranks, 1 is best")
    critical_difference_diagram(_mean_ranks(means), posthoc_nemenyi_friedman(means), ax=axes)
    return figure


def _mean_ranks(means: pd.DataFrame) -> pd.Series:
    return means.rank(axis="columns", ascending=False).mean()


def _probability(value: Any) -> Cell:
    """Return a probability; nothing for ``NaN``."""
    return Cell("") if pd.isna(value) else Cell(f"{value:.3f}", float(value))


def _share(value: Any) -> Cell:
    """Return a share in percent; nothing for ``NaN``."""
    return Cell("") if pd.isna(value) else Cell(f"{PERCENT * value:.1f}", PERCENT * float(value))
