# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Downloads that give up in seconds where there is no network."""

from collections.abc import Sequence

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session

_TIMEOUT = 10.0
"""Seconds without an answer after which a server counts as out of reach."""


def require_hub(repository: str, files: Sequence[str]) -> None:
    """Make sure that the Hub's client has a chance: it asks six times for a file, for a minute in all.

    Raises:
        ConnectionError: If none of the files of the repository is in the client's cache and the Hub does not answer.
    """
    if not (is_cached(repository, files) or constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT)):
        msg = f"{constants.ENDPOINT} does not answer"
        raise ConnectionError(msg)


def is_cached(repository: str, files: Sequence[str]) -> bool:
    """Return whether one of the files of a repository is in the cache of the Hub's client."""
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def _answers(url: str) -> bool:
    """Return whether a server answers, whatever it says."""
    try:
        get_session().head(url, timeout=_TIMEOUT)
    except Exception:  # noqa: BLE001  # of requests or of httpx, by the client's version
        return False
    return True
