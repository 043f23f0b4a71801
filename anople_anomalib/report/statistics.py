# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Statistics of a comparison, from the scores of its images: intervals, paired tests, ranks, and verdicts.

SciPy, scikit-posthocs and MLstatkit (extra ``compare``) compute all of it.
"""

from collections.abc import Iterator, Mapping, Sequence
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

RESAMPLES = 999
RECALL = 95  # percent of the defects, at which false alarms are counted
_SETTING = ("dataset", "setting", "shots")
_FEWEST = 3  # methods and categories that ranks take


def load_scores(results: Results) -> pd.DataFrame:
    """Return the scores of all images of the jobs that kept theirs, with the columns of :class:`.ImageScore`.

    Beside them ``threshold``, ``method``, ``dataset``, ``setting``, ``shots`` and ``seed``.
    """
    found = []
    for job in results.done.to_dict("records"):
        path = results.folders[job["job_id"]] / SCORES / f"{job['job_id']}.parquet"
        if path.is_file():
            known = {name: job[name] for name in ("method", "dataset", "setting", "seed")}
            found.append(pd.read_parquet(path).assign(shots=job["k_shot"], **known))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


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
        if min(complete.shape) >= _FEWEST:
            tables.append(_rank_table(title, complete))
            plots["critical_difference_" + "_".join(key)] = _rank_plot(title, complete)
    return tables, plots


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve by Mann and Whitney's ranks, in [0, 1].

    Args:
        scores: Shape ``(..., N)``.
        anomalous: Shape ``(N,)``, of both kinds.

    Returns:
        Shape ``(...)``.
    """
    ranks, number = rankdata(scores, axis=-1), int(anomalous.sum())
    return (ranks[..., anomalous].sum(axis=-1) - number * (number + 1) / 2) / (number * (len(anomalous) - number))


def false_alarms(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the share of good images at or above the score that 95 % of the defective ones reach."""
    descending = np.sort(scores[anomalous])[::-1]
    reached = descending[-(-RECALL * len(descending) // PERCENT) - 1]
    return float((scores[~anomalous] >= reached).mean())


def interval(wins: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Return a 95 % interval of the mean AUROC over categories: both images and draws of the shots are drawn anew.

    Args:
        wins: One array per category, shape ``(draws, anomalous images, good images)``: 1 where the anomalous image has
            the larger score, 0.5 where both are equal, else 0. Every category has the same draws.

    Returns:
        Percentiles of the bootstrap; ``None`` where a category has a single image of a kind.
    """
    draws = len(wins[0])
    samples = [np.arange(size) for each in wins for size in each.shape[1:]]
    if min(map(len, samples)) < 2:
        return None

    def mean_auroc(*drawn: np.ndarray) -> float:
        """Return the mean over the categories for one draw of images, and of draws of the shots."""
        rows = drawn[-1] if draws > 1 else np.zeros(1, int)
        pairs = zip(drawn[0::2], drawn[1::2], strict=False)  # the draws stand behind
        return float(np.mean([each[np.ix_(rows, *pair)].mean() for each, pair in zip(wins, pairs, strict=True)]))

    samples += [np.arange(draws)] if draws > 1 else []
    found = bootstrap(samples, mean_auroc, vectorized=False, n_resamples=RESAMPLES, method="percentile", rng=0)
    return found.confidence_interval.low, found.confidence_interval.high


def paired_test(ranks: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Compare two methods on the same images by the test of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988).

    Args:
        ranks: By category the ranks of the images by the one method and by the other, and whether each is anomalous;
            all of shape ``(N,)``, two images or more of either kind.

    Returns:
        The difference of the mean AUROC over categories, and the two-sided probability of one as large where there is
        none: categories have no images in common, so that the variances of their differences add up. ``NaN`` where
        all of these are 0 though the methods differ.
    """
    from MLstatkit import Delong_test

    differences, variances = [], []
    for first, second, anomalous in ranks.values():
        # The few draws are for a variance of 0, in whose place it has a bootstrap that is not used.
        *_, one, two, details = Delong_test(anomalous, first, second, n_boot=50, random_state=0)
        differences.append(one - two)
        variances.append(details["var_diff"] or 0.0)
    difference, deviation = float(np.mean(differences)), sum(variances) ** 0.5 / len(variances)
    if deviation == 0:
        return difference, float("nan") if difference else 1.0
    return difference, float(2 * norm.sf(abs(difference) / deviation))


def _aurocs(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method, category and seed, with AUROC and false alarms, where there are images of both kinds."""
    rows = []
    for (method, category, seed), own in groups(scores, "method", "category", "seed"):
        values, anomalous = own["score"].to_numpy(), own["anomalous"].to_numpy(bool)
        if 0 < anomalous.sum() < len(anomalous):
            alarms = false_alarms(values, anomalous)
            rows.append((method, category, seed, float(auroc(values, anomalous)), alarms))
    return pd.DataFrame(rows, columns=["method", "category", "seed", "auroc", "false_alarms"])


def _wins(scores: pd.DataFrame) -> list[np.ndarray]:
    """Return what :func:`interval` takes, of one method, over the draws that have all of its categories."""
    tables = [
        own.pivot(index=["anomalous", "image"], columns="seed", values="score") for _, own in groups(scores, "category")
    ]
    draws = [str(seed) for seed in tables[0] if all(seed in table and table[seed].notna().all() for table in tables)]
    wins = []
    for table in tables:
        good, defective = (table.xs(kind, level="anomalous")[draws].to_numpy().T[:, None] for kind in (False, True))
        higher, equal = defective.swapaxes(1, 2) > good, defective.swapaxes(1, 2) == good
        wins.append(higher + 0.5 * equal)
    return wins


def _interval_table(title: str, scores: pd.DataFrame) -> TextTable:
    """Return AUROC with its interval, false alarms at 95 % recall, and what is called rightly, of every method."""
    rows, metrics = [], _aurocs(scores)
    for (method,), own in groups(scores, "method"):
        both = own[own["category"].isin(metrics["category"])]
        means = metrics[metrics["method"] == method].groupby("category")[["auroc", "false_alarms"]].mean().mean()
        found = interval(_wins(both)) if len(both) else None
        bounds = "" if found is None else " to ".join(f"{PERCENT * each:.1f}" for each in found)
        judged = own.dropna(subset=["threshold"])
        right = (judged["score"] > judged["threshold"]) == judged["anomalous"]
        shares = [right[judged["anomalous"] == kind].mean() for kind in (False, True)]
        rows.append(
            [Cell(method), _share(means["auroc"]), Cell(bounds), _share(means["false_alarms"]), *map(_share, shares)]
        )
    header = [
        "Method",
        "Image AUROC",
        "95 % interval",
        "FPR at 95 % TPR",
        "Good called good",
        "Defective called defective",
    ]
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
    """Return the paired test of every two methods, over the categories that both have."""
    ranked = {method: dict(_ranks(own)) for (method,), own in groups(scores, "method")}
    rows = []
    for one, two in combinations(ranked, 2):
        pairs: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for category in ranked[one].keys() & ranked[two].keys():
            both = pd.concat([ranked[one][category], ranked[two][category]], axis="columns", join="inner")
            anomalous = both.index.get_level_values("anomalous").to_numpy(bool)
            if 1 < anomalous.sum() < len(anomalous) - 1:  # a single image has no variance
                pairs[category] = (both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy(), anomalous)
        if pairs:
            difference, probability = paired_test(pairs)
            images = sum(len(each[0]) for each in pairs.values())
            cells = [Cell(f"{PERCENT * difference:+.1f}", difference), _probability(probability)]
            rows.append([Cell(one), Cell(two), *cells, Cell(str(images), images)])
    header = ["Method", "Other method", "Difference of AUROC", "p", "Images"]
    return TextTable(f"{title}, pairs of methods on the same images, DeLong's test", header, rows)


def _ranks(scores: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield the categories of a method, and the mean over the draws of the ranks of their images."""
    for (category,), own in groups(scores, "category"):
        ranks = own["score"].groupby(own["seed"]).rank()
        yield category, ranks.groupby([own["anomalous"], own["image"]]).mean()


def _rank_table(title: str, means: pd.DataFrame) -> TextTable:
    """Return Friedman's test over the categories, and Nemenyi's probabilities of every two methods."""
    from scikit_posthocs import posthoc_nemenyi_friedman

    test = friedmanchisquare(*means.to_numpy().T)
    lines = zip(means, _mean_ranks(means), posthoc_nemenyi_friedman(means).to_numpy(), strict=True)
    rows = [
        [Cell(str(name)), Cell(f"{rank:.2f}", rank), *(Cell(f"{p:.3f}", float(p)) for p in line)]
        for name, rank, line in lines
    ]
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
