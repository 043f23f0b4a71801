# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Colors and markers of every figure: Okabe and Ito's palette, which people with any color vision can tell apart."""

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
)  # fmt: skip
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)
MARKERS = "osD^vPX"
