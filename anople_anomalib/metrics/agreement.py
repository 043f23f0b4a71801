# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Attribute agreement study: the same parts judged several times, at one station or several, against a reference.

Tools count differently, so every number says how: *per part*, one wrong trial makes a part wrong (effectiveness as in
AIAG's Measurement Systems Analysis); *per trial*, every verdict counts for itself. Kappas are statsmodels'.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, product
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .bounds import CONFIDENCE, GOOD, Rate

OK = "OK"
_DRAWS = 2000  # of the bootstrap


class Judged(NamedTuple):
    """One picture of one part, and its verdict."""

    path: str  # the file
    kind: str  # "good", or the name of the defect
    part: str  # name of the part among those of its kind
    station: str  # name of the station, camera or appraiser
    trial: str  # name of the trial at this station
    verdict: str  # as in a row of predictions.csv
    score: float | None  # raw score; None where there is none
    error: str = ""  # why there is no verdict

    @property
    def name(self) -> str:
        """Name of the part among all."""
        return f"{self.kind}/{self.part}"

    @property
    def truth(self) -> bool:
        """Whether the part is defective."""
        return self.kind != GOOD

    @property
    def called(self) -> bool:
        """Whether it was called anything but OK."""
        return self.verdict != OK


class Kappa(NamedTuple):
    """Agreement beyond chance with its 95 % interval; NaN where all verdicts are the same: chance explains them."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Say value and interval."""
        if self.value != self.value:
            return "not defined (all verdicts are the same)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


_NO_KAPPA = Kappa(*[float("nan")] * 3)


@dataclass(frozen=True)
class StationAgreement:
    """Agreement of one station with itself and with the reference."""

    within: Rate  # per part: all trials say the same; fewer than two trials say nothing
    effectiveness: Rate  # per part: all trials are right
    right_verdicts: Rate  # per trial: verdicts that are right
    miss_rate: Rate  # per trial: verdicts on defective parts that are OK
    false_alarm_rate: Rate  # per trial: verdicts on good parts that are not
    missed_parts: Rate  # per part: defective parts that one trial at least calls OK
    scrapped_parts: Rate  # per part: good parts that one trial at least does not
    against_reference: Kappa  # Cohen's kappa with the reference, per trial
    between_trials: Kappa  # Fleiss' kappa of the trials


@dataclass(frozen=True)
class Repeatability:
    """Spread of the scores of one part taken anew."""

    sigma: float  # standard deviation within parts and stations, pooled
    good_distance: float  # from the mean score of the nearest good part to the threshold, in sigmas; < 0 beyond it
    bad_distance: float  # the same for the defective parts


@dataclass(frozen=True)
class AgreementStudy:
    """Result of an attribute agreement study."""

    stations: dict[str, StationAgreement]  # agreement of each station
    between: Rate  # per part: all trials of all stations say the same
    all_right: Rate  # per part: all trials of all stations are right
    pairs: dict[tuple[str, str], Kappa]  # Cohen's kappa of every two stations, trials paired by their order
    fleiss: Kappa  # Fleiss' kappa of all verdicts
    repeatability: Repeatability | None  # spread of the scores; None without repeated scores


def agreement_study(judged: Iterable[Judged], threshold: float | None = None) -> AgreementStudy:
    """Compute an attribute agreement study.

    Args:
        judged: Verdicts on every part, as often at every station, at least one.
        threshold: Raw threshold behind the verdicts.

    Raises:
        ValueError: If a trial judges a part twice, or parts were judged differently often.
    """
    rows = sorted(judged, key=attrgetter("station", "name", "trial"))
    require_repeats(rows)
    truth = np.array(list({each.name: each.truth for each in rows}.values()))
    called = {  # (parts, trials)
        station: np.array([each.called for each in own]).reshape(len(truth), -1)
        for station, own in groupby(rows, attrgetter("station"))
    }
    joint = np.concatenate(list(called.values()), axis=1)
    return AgreementStudy(
        stations={name: _station(table, truth) for name, table in called.items()},
        between=_rate(_alike(joint)),
        all_right=_rate((joint == truth[:, None]).all(1)),
        pairs={(a, b): cohen(called[a].ravel(), called[b].ravel()) for a, b in combinations(called, 2)},
        fleiss=fleiss(_counts(joint)),
        repeatability=_repeatability(rows, float("nan") if threshold is None else threshold),
    )


def cohen(first: ArrayLike, second: ArrayLike) -> Kappa:
    """Compute Cohen's kappa of two raters from their verdicts, shape ``(n,)`` each, with its large-sample interval."""
    from statsmodels.stats.inter_rater import cohens_kappa, to_table

    verdicts = np.stack([first, second], axis=1)
    if len(np.unique(verdicts)) < 2:
        return _NO_KAPPA
    found = cohens_kappa(to_table(verdicts)[0])
    return Kappa(float(found.kappa), float(found.kappa_low), float(found.kappa_upp))


def fleiss(counts: NDArray[np.int_]) -> Kappa:
    """Compute Fleiss' kappa of several raters, with a bootstrap interval over the parts.

    Args:
        counts: How many raters gave a part each verdict, shape ``(parts, verdicts)``, rows of one sum of two or more.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa

    if (counts > 0).any(0).sum() < 2 or counts[0].sum() < 2:
        return _NO_KAPPA
    rng = np.random.default_rng(0)
    draws = counts[rng.integers(0, len(counts), (_DRAWS, len(counts)))]
    varied = draws[(draws > 0).any(1).sum(1) > 1]  # the others have no kappa
    low, high = np.quantile([fleiss_kappa(draw) for draw in varied], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Kappa(float(fleiss_kappa(counts)), float(low), float(high))


def _station(called: NDArray[np.bool_], truth: NDArray[np.bool_]) -> StationAgreement:
    right = called == truth[:, None]
    wrong_bad, wrong_good = ~right[truth], ~right[~truth]
    return StationAgreement(
        within=_rate(_alike(called)),
        effectiveness=_rate(right.all(1)),
        right_verdicts=_rate(right),
        miss_rate=_rate(wrong_bad),
        false_alarm_rate=_rate(wrong_good),
        missed_parts=_rate(wrong_bad.any(1)),
        scrapped_parts=_rate(wrong_good.any(1)),
        against_reference=cohen(called.ravel(), np.repeat(truth, called.shape[1])),
        between_trials=fleiss(_counts(called)),
    )


def _repeatability(rows: Sequence[Judged], limit: float) -> Repeatability | None:
    """Pool the variances of the scores within parts and stations."""
    table = pd.DataFrame([each._asdict() | {"name": each.name, "truth": each.truth} for each in rows])
    table = table.dropna(subset="score").astype({"score": float})
    repeats = table.groupby(["station", "name"]).score
    freedom = len(table) - repeats.ngroups
    if freedom < 1:
        return None
    sigma = float((table.score - repeats.transform("mean")).pow(2).sum() / freedom) ** 0.5
    parts = table.groupby("name").agg({"score": "mean", "truth": "first"})
    good, bad = parts.score[~parts.truth].max(), parts.score[parts.truth].min()
    with np.errstate(divide="ignore", invalid="ignore"):
        return Repeatability(sigma, *(np.array([limit - good, bad - limit]) / sigma).tolist())


def require_repeats(rows: Sequence[Judged]) -> None:
    """Refuse a part that a trial judges twice, or that is judged less often than others, with a ValueError."""
    trials = Counter((each.name, each.trial, each.station) for each in rows)
    twice = next((key for key, number in trials.items() if number > 1), None)
    if twice is not None:
        msg = "The part '{}' is judged twice in trial '{}' at station '{}': give each its trial.".format(*twice)
        raise ValueError(msg)
    numbers = Counter((each.station, each.name) for each in rows)
    wanted = max(numbers.values())
    stations, parts = (sorted(set(names)) for names in zip(*numbers, strict=True))
    short = next((pair for pair in product(stations, parts) if numbers[pair] != wanted), None)
    if short is not None:
        msg = (
            f"Every part must be judged {wanted} times at every station, got {numbers[short]} verdicts on part "
            f"'{short[1]}' at station '{short[0]}'."
        )
        raise ValueError(msg)


def _counts(called: NDArray[np.bool_]) -> NDArray[np.int_]:
    bad = called.sum(1)
    return np.stack([called.shape[1] - bad, bad], axis=1)


def _alike(called: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return (called == called[:, :1]).all(1)


def _rate(counted: NDArray[np.bool_]) -> Rate:
    return Rate(int(counted.sum()), counted.size)
