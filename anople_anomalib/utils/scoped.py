# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Changes of an object that last as long as a block."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Give an object another attribute within a block, whatever ends the block.

    Args:
        owner: The object.
        name: Name of the attribute. Where the object has none of its own, it is removed afterwards, so that the one of
            its class is seen again.
        value: Value within the block.
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
