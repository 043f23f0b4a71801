# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Attribute agreement study: the same parts judged several times, at one station or several, against a reference.

Tools count differently, so every number says how: *per part*, one wrong trial makes a part wrong (effectiveness as in
AIAG's Measurement Systems Analysis); *per trial*, every verdict counts for itself. Kappas are statsmodels'.

Example:
    >>> study = agreement_study([Observation("1", "A", "1", truth=True, called=True, score=0.4)], threshold=0.2)
    >>> print(study.stations["A"].miss_rate)
    0 of 1 (0 %; at most 95 % with 95 % confidence)
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bounds import CONFIDENCE, Rate

_DRAWS = 2000  # of the bootstrap


class Observation(NamedTuple):
    """One verdict on one part.

    Attributes:
        part: Name of the part.
        station: Name of the station, camera or appraiser.
        trial: Name of the trial at this station.
        truth: Whether the part is defective.
        called: Whether it was called anything but OK.
        score: Raw score, if there is one.
    """

    part: str
    station: str
    trial: str
    truth: bool
    called: bool
    score: float | None = None


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


@dataclass(frozen=True)
class StationAgreement:
    """Agreement of one station with itself and with the reference.

    Attributes:
        within: Per part: all trials say the same. Fewer than two trials say nothing.
        effectiveness: Per part: all trials are right.
        right_verdicts: Per trial: verdicts that are right.
        miss_rate: Per trial: verdicts on defective parts that are OK.
        false_alarm_rate: Per trial: verdicts on good parts that are not.
        missed_parts: Per part: defective parts that one trial at least calls OK.
        scrapped_parts: Per part: good parts that one trial at least does not.
        against_reference: Cohen's kappa with the reference, per trial.
        between_trials: Fleiss' kappa of the trials.
    """

    within: Rate
    effectiveness: Rate
    right_verdicts: Rate
    miss_rate: Rate
    false_alarm_rate: Rate
    missed_parts: Rate
    scrapped_parts: Rate
    against_reference: Kappa
    between_trials: Kappa


@dataclass(frozen=True)
class Repeatability:
    """Spread of the scores of one part taken anew.

    Attributes:
        sigma: Standard deviation within parts and stations, pooled.
        good_distance: Distance of the threshold from the mean score of the good part nearest to it, in sigmas; negative
            if the part is beyond it.
        bad_distance: The same for the defective parts.
    """

    sigma: float
    good_distance: float
    bad_distance: float


@dataclass(frozen=True)
class AgreementStudy:
    """Result of an attribute agreement study.

    Attributes:
        stations: Agreement of each station.
        between: Per part: all trials of all stations say the same.
        all_right: Per part: all trials of all stations are right.
        pairs: Cohen's kappa of every two stations, trials paired by their order.
        fleiss: Fleiss' kappa of all verdicts.
        repeatability: Spread of the scores; ``None`` without repeated scores.
    """

    stations: dict[str, StationAgreement]
    between: Rate
    all_right: Rate
    pairs: dict[tuple[str, str], Kappa]
    fleiss: Kappa
    repeatability: Repeatability | None


def agreement_study(observations: Iterable[Observation], threshold: float | None = None) -> AgreementStudy:
    """Compute an attribute agreement study.

    Args:
        observations: Verdicts on every part, as often at every station.
        threshold: Raw threshold behind the verdicts.

    Raises:
        ValueError: If there are none, a part has two truths, a trial judges a part twice, or parts were judged
            differently often.
    """
    everything = sorted(observations, key=lambda each: (each.station, each.part, each.trial))
    _require_a_design(everything)
    stations: dict[str, list[Observation]] = defaultdict(list)
    for each in everything:
        stations[each.station].append(each)
    called = {name: _table(own) for name, own in stations.items()}  # (parts, trials)
    truth = np.array(list({each.part: each.truth for each in stations[everything[0].station]}.values()))
    joint = np.concatenate(list(called.values()), axis=1)
    return AgreementStudy(
        stations={name: _station(table, truth) for name, table in called.items()},
        between=_rate(_alike(joint)),
        all_right=_rate((joint == truth[:, None]).all(1)),
        pairs={(a, b): cohen(called[a].ravel(), called[b].ravel()) for a, b in combinations(called, 2)},
        fleiss=fleiss(_counts(joint)),
        repeatability=_repeatability(everything, threshold),
    )


def cohen(first: ArrayLike, second: ArrayLike) -> Kappa:
    """Compute Cohen's kappa of two raters, with its large-sample interval.

    Args:
        first: Verdicts of one rater, shape ``(n,)``.
        second: Verdicts of the other on the same.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    names, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    if len(names) < 2:
        return Kappa(*[float("nan")] * 3)
    table = np.zeros((len(names), len(names)))
    np.add.at(table, tuple(np.split(numbers, 2)), 1)
    found = cohens_kappa(table)
    return Kappa(float(found.kappa), float(found.kappa_low), float(found.kappa_upp))


def fleiss(counts: NDArray[np.int_]) -> Kappa:
    """Compute Fleiss' kappa of several raters, with a bootstrap interval over the parts.

    Args:
        counts: How many raters gave a part each verdict, shape ``(parts, verdicts)``, rows of one sum of two or more.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa

    if (counts > 0).any(0).sum() < 2 or counts[0].sum() < 2:
        return Kappa(*[float("nan")] * 3)
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


def _repeatability(observations: Sequence[Observation], threshold: float | None) -> Repeatability | None:
    """Pool the variances of the scores within parts and stations."""
    groups, means = defaultdict(list), defaultdict(list)
    for each in observations:
        if each.score is not None:
            groups[each.station, each.part].append(each.score)
            means[each.truth, each.part].append(each.score)
    freedom = sum(len(scores) - 1 for scores in groups.values())
    if freedom < 1:
        return None
    squares = sum(float(np.var(scores)) * len(scores) for scores in groups.values())
    sigma = (squares / freedom) ** 0.5
    good = _nearest([float(np.mean(scores)) for (bad, _), scores in means.items() if not bad], max)
    bad = _nearest([float(np.mean(scores)) for (bad, _), scores in means.items() if bad], min)
    limit = float("nan") if threshold is None else threshold
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.array([limit - good, bad - limit]) / sigma
    return Repeatability(sigma, *distances.tolist())


def _nearest(means: list[float], choose: Callable[[list[float]], float]) -> float:
    return choose(means) if means else float("nan")


def _require_a_design(observations: Sequence[Observation]) -> None:
    if not observations:
        msg = "An agreement study needs verdicts, got none."
        raise ValueError(msg)
    truths: dict[str, bool] = {}
    numbers: dict[tuple[str, str], int] = defaultdict(int)
    seen = set()
    for each in observations:
        if truths.setdefault(each.part, each.truth) != each.truth:
            msg = f"The part '{each.part}' is called good in one place of the reference and defective in another."
            raise ValueError(msg)
        if (key := (each.part, each.station, each.trial)) in seen:
            msg = f"The part '{each.part}' was judged twice in trial '{each.trial}' at station '{each.station}'."
            raise ValueError(msg)
        seen.add(key)
        numbers[each.station, each.part] += 1
    stations = {each.station for each in observations}
    wanted = max(numbers.values())
    short = [(s, part) for part in truths for s in stations if numbers.get((s, part), 0) != wanted]
    if short:
        station, part = min(short)
        msg = (
            f"Every part must be judged {wanted} times at every station, got {numbers.get((station, part), 0)} "
            f"verdicts on part '{part}' at station '{station}'."
        )
        raise ValueError(msg)


def _table(observations: Sequence[Observation]) -> NDArray[np.bool_]:
    """Return the verdicts of one station, sorted by part and trial, shape ``(parts, trials)``."""
    parts = len({each.part for each in observations})
    return np.array([each.called for each in observations]).reshape(parts, -1)


def _counts(called: NDArray[np.bool_]) -> NDArray[np.int_]:
    bad = called.sum(1)
    return np.stack([called.shape[1] - bad, bad], axis=1)


def _alike(called: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return (called == called[:, :1]).all(1)


def _rate(counted: NDArray[np.bool_]) -> Rate:
    return Rate(int(counted.sum()), counted.size)
