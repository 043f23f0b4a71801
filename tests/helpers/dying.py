# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A model that takes its process with it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from anomalib.models import Padim


class Dying(Padim):
    """Padim whose first attempts end with their process, or wait for somebody to end it.

    Args:
        marker: File with a line for every attempt, the number of the process.
        deaths: Number of attempts that end so.
        waits: Whether such an attempt waits for the end instead of bringing it about.
        **others: Arguments of Padim.
    """

    def __init__(self, marker: str, deaths: int = 1, waits: bool = False, **others: Any) -> None:
        with Path(marker).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        if len(Path(marker).read_text(encoding="utf-8").split()) <= deaths:
            if waits:
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(**others)
