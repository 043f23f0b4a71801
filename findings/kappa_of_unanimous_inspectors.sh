#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Inspectors who agree on every part have no kappa at all if no part was defective, in scikit-learn and in statsmodels.
#
# Guess: full agreement is kappa 1, whatever was agreed on; naming both labels (`labels=`) or giving the table with its empty row settles
# the case where one of them never occurs.
# Seen: `cohen_kappa_score`, `cohens_kappa` and `fleiss_kappa` all return NaN (0 / 0: the agreement by chance is 1, too), with `labels=`
# and with an empty category as well, and a NaN passes unnoticed through `kappa < limit`. One single dissent in 60 judgments makes it
# -0.017, "worse than chance", at an agreement of 98 %.
# Who is hurt: an attribute agreement study on a day without defects. State the raw agreement with its interval beside kappa, and
# refuse a study whose reference has one class.
# scikit-learn 1.9.1 (metrics/_classification.py), statsmodels 0.15.0 (stats/inter_rater.py).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 statsmodels==0.15.0
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import math

import numpy as np
import sklearn
import statsmodels
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa

print("scikit-learn", sklearn.__version__, "statsmodels", statsmodels.__version__)
unanimous = ["OK"] * 20
kappas = {
    "scikit-learn": cohen_kappa_score(unanimous, unanimous),
    "scikit-learn, both labels named": cohen_kappa_score(unanimous, unanimous, labels=["OK", "NOT OK"]),
    "statsmodels, Cohen": cohens_kappa(np.array([[20, 0], [0, 0]])).kappa,
    "statsmodels, Fleiss": fleiss_kappa(np.column_stack([np.full(20, 3), np.zeros(20, dtype=int)])),
}
for name, kappa in kappas.items():
    print(f"{name}: {kappa}; below 0.75: {kappa < 0.75}")
    assert math.isnan(kappa)

judgments = np.zeros((20, 3), dtype=int)
judgments[0, 0] = 1  # one inspector rejects one part
kappa = fleiss_kappa(aggregate_raters(judgments)[0])
print(f"59 of 60 judgments the same: Fleiss' kappa {kappa:.3f}")
assert -0.02 < kappa < 0
PYTHON
