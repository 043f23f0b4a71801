# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Reports on comparisons: ``anople report runs/fewshot/<time>``.

The result rows of ``anomalib fewshot`` become the paper's tables, with the paper's published figures beside the
measured ones, plots, and a list of what is missing.
"""
