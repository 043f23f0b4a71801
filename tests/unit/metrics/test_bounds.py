# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Bounds against published values and against the definition."""

import numpy as np
import pytest
from scipy.stats import beta, binom

from anople_anomalib.metrics.bounds import Rate, defect_of, parts_needed, promised_number


@pytest.mark.parametrize(
    ("n", "percent"), [(10, 25.9), (20, 13.9), (30, 9.5), (50, 5.8), (100, 3.0), (300, 1.0), (59, 5.0), (149, 2.0)]
)
def test_none_of_n_is_bounded_as_in_the_tables(n: int, percent: float) -> None:
    """The bound of 0 of n is 1 - 0.05^(1/n), the exact form of the rule of three."""
    assert 100 * Rate(0, n).at_most == pytest.approx(percent, abs=0.06)
    assert Rate(0, n).at_most == pytest.approx(1 - 0.05 ** (1 / n))


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.05, 59), (0.02, 149), (0.01, 299), (0.005, 598), (0.001, 2995), (0.1, 29)]
)
def test_parts_for_a_promise_are_those_of_the_tables(rate: float, needed: int) -> None:
    assert parts_needed(rate) == needed
    assert Rate(0, needed).at_most <= rate < Rate(0, needed - 1).at_most


@pytest.mark.parametrize(("k", "needed"), [(1, 93), (2, 124), (3, 153), (4, 181)])
def test_misses_take_more_parts(k: int, needed: int) -> None:
    """Sample sizes of 95/95 acceptance plans (Wilks): 59, 93, 124, 153, 181."""
    assert parts_needed(0.05, k=k) == needed
    assert Rate(k, 50).further_parts(0.05) == needed - 50
    assert Rate(0, 400).further_parts(0.05) == 0


def test_wishes_are_the_numbers_of_the_tables() -> None:
    assert Rate(0, 20).wishes().endswith(": 39 prove 5 %, 129 prove 2 %, 279 prove 1 %, 2,975 prove 0.1 %.")
    assert Rate(1, 92).wishes().endswith("would do: 1 prove 5 %, 144 prove 2 %, 381 prove 1 %, 4,650 prove 0.1 %.")
    assert Rate(0, 3000).wishes() == ""


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 40), (5, 10), (40, 40)])
def test_bounds_are_those_of_clopper_and_pearson(k: int, n: int) -> None:
    rate = Rate(k, n)
    assert rate.at_most == pytest.approx(1.0 if k == n else beta.ppf(0.95, k + 1, n - k))
    assert rate.at_least == pytest.approx(0.0 if k == 0 else beta.ppf(0.05, k, n - k + 1))
    if k < n:
        assert binom.cdf(k, n, rate.at_most) == pytest.approx(0.05)


def test_a_rate_says_counts_share_and_bound() -> None:
    assert str(Rate(3, 40)) == "3 of 40 (7.5 %; at most 18.3 % with 95 % confidence)"
    assert str(Rate(0, 0)) == "0 of 0"
    assert Rate(50, 50).with_lower_bound() == "50 of 50 (100 %; at least 94.2 % with 95 % confidence)"
    assert Rate(0, 0).at_most == 1
    assert str(Rate(0, 10, confidence=0.9)) == "0 of 10 (0 %; at most 20.6 % with 90 % confidence)"


@pytest.mark.parametrize(("k", "n", "confidence"), [(4, 3, 0.95), (-1, 3, 0.95), (1, 3, 1.0)])
def test_no_rates(k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="got"):
        Rate(k, n, confidence)


def test_a_promise_takes_enough_parts_and_is_not_rounded() -> None:
    assert promised_number(299, 0.01) == 0
    with pytest.raises(ValueError, match=r"At most 1 % .* takes 299 good parts, there are 298: 1 more are missing"):
        promised_number(298, 0.01)
    assert [promised_number(n, 0.05) for n in (59, 92, 93, 123, 124)] == [0, 0, 1, 1, 2]


def test_a_promise_is_kept_in_as_many_draws_as_stated() -> None:
    """The true share above the order statistic of uniform scores is known: it is 1 minus the threshold."""
    rng = np.random.default_rng(0)
    above = promised_number(93, 0.05)
    thresholds = np.sort(rng.random((4000, 93)), axis=1)[:, 92 - above]
    assert 0.04 < np.mean(1 - thresholds > 0.05) <= 0.06
    mean_rule = np.sort(rng.random((4000, 99)), axis=1)[:, -1]  # "1 %" on average from 99 parts
    assert np.mean(1 - mean_rule > 0.01) == pytest.approx(0.99**99, abs=0.03)  # is exceeded in 37 % of all cases


def test_the_kind_of_a_defect_is_its_folder_and_no_serial_number_of_a_part() -> None:
    assert defect_of("bottle/test/hole/000.png") == "hole"
    assert defect_of("/data/audiojack/NG/AK/S0001/audiojack_0001_NG_AK_C1.jpg") == "AK"
    assert defect_of("NG/AK/S0002/x.jpg") == "AK"
    assert defect_of("/NG/bottle/hole/000.png") == "hole"
    assert defect_of("test/S12/000.png") == "S12"
