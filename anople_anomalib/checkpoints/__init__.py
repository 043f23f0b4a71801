# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoint files: written whole, read as plain data, checked before they are taken."""
