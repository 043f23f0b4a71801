#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# scikit-learn's weighted kappa takes the order and the distances of grades from the alphabet and from what happened to be used.
#
# A good guess: `cohen_kappa_score(..., weights="quadratic")` refuses the words "good", "minor", "major", which have no order of their own; on
# numbers it weighs a disagreement by their difference, so that grades 2 and 5 are three apart.
# Seen: words are sorted: good, major, minor, so that taking a major defect for good counts less than taking a minor one for it. The same
# judgments have a kappa of 0.57 as words and of 0.80 as 0, 1, 2, on either side of the 0.75 that is often asked of inspectors. Numbers are
# replaced by their places among the grades that occur: 2 and 5 are neighbors where nobody gave 3 or 4, and kappa is 0.86 instead of 0.67.
# Two more parts, on which both inspectors agree, LOWER it to 0.69, as their grades are 3 and 4.
# Who is hurt: gauge studies with severities instead of OK and NOT OK: the number depends on the language of the grades and on what happened
# to be among the parts. `labels=` is said to select labels; that its order makes the distances is not.
# What helps: numbers, and `labels=` with all grades of the scale.
# scikit-learn 1.9.1 (metrics/_classification.py, cohen_kappa_score), numpy 2.4.6.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

from sklearn.metrics import cohen_kappa_score

print("scikit-learn", version("scikit-learn"), "numpy", version("numpy"))
severities = ["good", "minor", "major"]
first = ["good", "minor", "major", "good", "minor", "major", "good", "good"]
second = ["good", "minor", "major", "good", "good", "minor", "good", "good"]
for weights in ("linear", "quadratic"):
    words = cohen_kappa_score(first, second, weights=weights)
    numbers = cohen_kappa_score([severities.index(each) for each in first], [severities.index(each) for each in second], weights=weights)
    listed = cohen_kappa_score(first, second, weights=weights, labels=severities)
    print(f"{weights}: as words {words:.3f}, as 0, 1, 2 {numbers:.3f}, as words with labels= {listed:.3f}")
    assert words < 0.6 < numbers == listed
assert words < 0.75 < numbers

first, second = [1] * 8 + [2] * 8 + [5] * 2, [1] * 8 + [2] * 5 + [5] * 3 + [5] * 2  # three times 5 instead of 2
found = []
for name, extra, labels in (
    ("grades 1, 2, 5", [], None),
    ("with all five named", [], [1, 2, 3, 4, 5]),
    ("with a 3 and a 4 added, on which both agree", [3, 4], None),
):
    found.append(cohen_kappa_score(first + extra, second + extra, weights="quadratic", labels=labels))
    print(f"quadratic, {name}: {found[-1]:.3f}")
assert found[0] > 0.75 > found[2] > found[1]
PYTHON
