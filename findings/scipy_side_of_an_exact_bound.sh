#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The side of scipy's Clopper-Pearson interval is chosen where the test is made, not where the interval is asked for.
#
# Guess: `binomtest(0, 59).proportion_ci(0.95, method="exact").high` is the 95 % upper bound of a defect rate after 59 good parts
# without a defect, 5 % ("59 parts for 5 %" stands in every quality handbook).
# Seen: it is 6.06 %. `proportion_ci` takes its side from the `alternative` of `binomtest`, an argument that otherwise only belongs to a
# p-value nobody asked for. Two-sided is the default, and so each side gets 2.5 %. With `alternative="less"` the number is 4.95 %.
# Also: "less" gives the UPPER bound, since it is the set of proportions that a test against "less" does not reject.
# Who is hurt: whoever states acceptance limits; the bound is too wide by a fifth, and with alternative="greater", the natural word for
# "at most", it is 100 %.
# scipy 1.17.1, scipy/stats/_binomtest.py, BinomTestResult.proportion_ci.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import scipy
from scipy.stats import binomtest

print("scipy", scipy.__version__)
bounds = {
    side: binomtest(0, 59, alternative=side).proportion_ci(0.95, method="exact").high
    for side in ("two-sided", "less", "greater")
}
for side, bound in bounds.items():
    print(f"0 of 59, alternative={side!r}: at most {bound:.4f}")
print(f"1 - 0.05 ** (1 / 59) = {1 - 0.05 ** (1 / 59):.4f}")
assert abs(bounds["less"] - (1 - 0.05 ** (1 / 59))) < 1e-9
assert abs(bounds["two-sided"] - (1 - 0.025 ** (1 / 59))) < 1e-9
assert bounds["greater"] == 1.0
PYTHON
