# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Downloads that give up in seconds where there is no network."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.utils import get_session

from .scoped import replaced

_TIMEOUT = 10.0
"""Seconds without an answer after which a server counts as out of reach."""


@contextmanager
def impatient_downloads() -> Iterator[None]:
    """Within the block, a Hub that does not answer is not asked again.

    The Hub's client asks six times for every file and waits longer and longer in between, a minute in all, even for
    files that it has in its cache. Where the Hub does not answer, the block sees that cache alone.
    """
    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        yield
    else:
        with replaced(constants, "HF_HUB_OFFLINE", True):
            yield


def _answers(url: str) -> bool:
    """Return whether a server answers, whatever it says."""
    try:
        get_session().head(url, timeout=_TIMEOUT)
    except Exception:  # noqa: BLE001  # of requests or of httpx, by the client's version
        return False
    return True
