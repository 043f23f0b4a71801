# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Shared by several rooms: argument checks, seeds, files that are written whole."""
