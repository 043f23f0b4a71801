# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Changes that last as long as a block: of an object's attribute, of the generators of random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Give an object another attribute within a block, whatever ends the block.

    Where the object has none of its own, it is removed afterwards, so that the one of its class is seen again.
    """
    had, own = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, own)
        else:
            delattr(owner, name)


@contextmanager
def seeded(*seeds: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw random numbers from seeds, on the CPU and a device, and leave the global generators as they were."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed) % 2**63
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mixed)
        yield
