# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The package's version, in the bottom room, because checkpoints hold it and the package's front door shows it."""

__version__ = "0.2.0"
