# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Frozen backbones: the towers of CLIP, features of timm, and weights that come with packages."""
