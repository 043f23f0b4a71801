# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics per category, counted scores, thresholds, bounds and charts; counting rates imports no torch."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .per_category import PerCategoryEvaluator
    from .score_counts import ScoreHistogram

__all__ = ["PerCategoryEvaluator", "ScoreHistogram"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"per_category": ["PerCategoryEvaluator"], "score_counts": ["ScoreHistogram"]}
)
