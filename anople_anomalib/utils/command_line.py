# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Whether a person at a terminal or a program in Python is served."""

import sys
from pathlib import Path


def runs_from_command_line() -> bool:
    """Return whether this process is the ``anomalib`` command, where nobody takes what a method returns."""
    return Path(sys.argv[0]).stem == "anomalib"
