# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How images are normalized for weights of open_clip that come from a file, where open_clip assumes OpenAI's way."""

import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anople_anomalib.utils.files import one_line

logger = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"
"""What open_clip's repositories on the Hub have beside the weights."""

_FOLDERS = 3  # above a file: the Hub's cache has repository/snapshots/revision/file

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, per channel."""


def normalization_of_file(
    name: str, file: Path, tags: Mapping[str, Normalization], usual: Normalization
) -> Normalization:
    """Return the normalization that a file of weights wants, as the configuration beside it or a tag in its path says.

    Where neither does, it is the usual one, with a warning if it is not that of all tags.

    Args:
        name: Name of the architecture, for messages.
        file: The file.
        tags: Normalization of the architecture's known weights, by their tags.
        usual: OpenAI's.

    Raises:
        ValueError: If there is a configuration and it is unreadable.
    """
    if (told := _told_beside(file)) is not None:
        return told
    place = _plain("/".join(file.absolute().parts[-_FOLDERS - 1 :]))
    named = {normalization for tag, normalization in tags.items() if _plain(tag) in place}
    if len(named) == 1:
        return named.pop()
    if others := [tag for tag, normalization in tags.items() if normalization != usual]:
        logger.warning(
            "'%s' does not say how images are normalized for it: OpenAI's way is assumed, which is wrong for the "
            "weights %s of %s. If it holds them, name it so (%s%s), or put their %s beside it.",
            file, ", ".join(others), name, others[0], file.suffix, CONFIG_FILE,
        )  # fmt: skip
    return usual


def _told_beside(file: Path) -> Normalization | None:
    """Return what the configuration beside a file says; ``None`` where there is none, or it says nothing of it."""
    config = file.with_name(CONFIG_FILE)
    if not config.is_file():
        return None
    try:
        told: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")).get("preprocess_cfg") or {}
        if "mean" not in told and "std" not in told:
            return None
        mean, std = (tuple(map(float, told[key])) for key in ("mean", "std"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {one_line(error)}"
    else:
        if len(mean) == len(std) == 3 and all(map(math.isfinite, mean)) and all(0 < each < math.inf for each in std):
            return mean, std
        problem = f"mean {mean}, std {std}"
    msg = (
        f"'{config}' beside the weights does not say how images are normalized ({problem}): its preprocess_cfg needs a "
        "mean and a std of three numbers; mend it, or move it away."
    )
    raise ValueError(msg)


def _plain(text: str) -> str:
    """Return a text in which tags and names of repositories are written alike."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower())
