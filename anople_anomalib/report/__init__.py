# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Reports on comparisons, ``anople report runs/fewshot/<time>``, and on acceptance studies."""
