# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The method of the AnoPLe paper: prompts, towers, decoder, memory bank, fusion and losses, in plain PyTorch."""
