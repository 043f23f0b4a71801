# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Image and pixel metrics per category, in bounded memory."""

from .per_category import PerCategoryEvaluator

__all__ = ["PerCategoryEvaluator"]
