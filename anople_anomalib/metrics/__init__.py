# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Image and pixel metrics per category, from raw scores and in bounded memory."""

from .per_category import PerCategoryEvaluator
from .score_counts import ScoreHistogram

__all__ = ["PerCategoryEvaluator", "ScoreHistogram"]
