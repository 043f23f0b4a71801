# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Changes that last as long as a block: of an attribute, of the log, of random numbers, the precision of products."""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

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
def logged_from(level: int, name: str) -> Iterator[None]:
    """Log nothing below a level, such as ``logging.WARNING``, by the logger of a name within the block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


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


def bfloat16_products(like: torch.Tensor, wanted: bool = True) -> AbstractContextManager[object]:
    """Multiply float32 matrices in bfloat16 within a block, where the processor has instructions for whole tiles (AMX).

    Sums are float32 there. With AMX a training step of a small tower takes two thirds of its time; with the vectors of
    AVX-512 alone bfloat16 is slower than float32. A precision that the trainer was given is left as it is.

    Args:
        like: A tensor of the block: its device, and the type of its numbers.
        wanted: Whether to change anything.
    """
    if not wanted or like.dtype != torch.float32 or like.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return nullcontext()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # oneDNN, which multiplies, can be told to leave them
    allowed = limit in ("", "ALL", "DEFAULT") or "AMX" in limit
    return torch.autocast("cpu", torch.bfloat16, enabled=allowed and bool(capabilities.get("amx_bf16")))
