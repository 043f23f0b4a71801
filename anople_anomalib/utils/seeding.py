# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Random numbers that depend on nothing that was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(*seeds: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw random numbers from seeds of their own and leave the global generators as they were.

    Args:
        *seeds: Numbers that together make the seed.
        device: Device whose generator is seeded besides the CPU's.
    """
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed) % 2**63
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mixed)
        yield
