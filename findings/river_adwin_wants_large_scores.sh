#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# river's ADWIN does not see that anomaly scores have tripled where they are small numbers, and sees nothing any more after one NaN.
#
# A good guess: ADWIN compares the means of an older and a newer window relative to their spread; its parameters have no unit, so that scores
# in other units give the same alarms; a NaN is refused, or skipped.
# Seen: the difference of the means is held against a bound with a term that does not shrink with the spread: it is made for values that fill
# 0 to 1. Scores of 0.002 that become 0.006 (thirteen deviations) raise no alarm in 2,000 parts; the same numbers times 100 raise
# one after 23. One NaN stays in the running sums: no alarm in the 2,500 parts after it, no error. KSWIN, of the same package, compares ranks and raises its
# alarm 13 parts after the change in any unit.
# Who is hurt: lines that watch the drift of a score like a cosine distance or a mean squared error, 0.001 to 0.01: the alarm is armed and
# silent. The page on ADWIN names no range; its example has values of 0 to 7.
# What helps: divide by the scores' own spread at the start (or take KSWIN), and leave NaN out.
# river 0.26.1 (drift/adwin_c, the bound of the cut), numpy 2.4.6.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check river==0.26.1 numpy==2.4.6
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from river.drift import ADWIN, KSWIN

print("river", version("river"), "numpy", version("numpy"))
draw = np.random.default_rng(0)
scores = np.concatenate([draw.normal(0.002, 0.0003, 1000), draw.normal(0.006, 0.0006, 2000)]).clip(0)


def alarm(detector: ADWIN | KSWIN, values: np.ndarray) -> int | None:
    """Parts after the change until the alarm, None where it is not raised; before the change there must be none."""
    for number, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            assert number >= 1000
            return number - 1000
    return None


found = {}
for unit in (1, 10, 100, 1000):
    found[unit] = alarm(ADWIN(), scores * unit), alarm(KSWIN(seed=0), scores * unit)
    print(f"scores {0.002 * unit:g} become {0.006 * unit:g}: alarm of ADWIN after {found[unit][0]} parts, of KSWIN after {found[unit][1]}")
assert found[1][0] is None and found[10][0] > 3 * found[100][0] and len({each[1] for each in found.values()}) == 1

broken = scores * 100
broken[500] = np.nan
silent = alarm(ADWIN(), broken)
print("scores times 100, one NaN 500 parts before the change: alarm of ADWIN after", silent, "parts")
assert silent is None
PYTHON
