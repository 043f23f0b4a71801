# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What several rooms need and no room owns: argument checks, seeds, files that are written whole."""
