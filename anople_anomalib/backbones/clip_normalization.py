# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What weights of open_clip that come from a file want and do not hold: a normalization of images, an activation.

open_clip assumes OpenAI's normalization and the architecture's activation there.
"""

import json
import logging
import math
import re
from collections.abc import Collection, Mapping
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
    place = _place(file)
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


def check_activation(
    name: str, file: Path, built: bool, tags: Mapping[str, Mapping[str, Any]], architectures: Collection[str]
) -> None:
    """Refuse a file of weights that were trained with another activation than the architecture is built with.

    Told by the configuration beside the file, else by the tag or repository in its path; else nothing is refused.

    Args:
        name: Name of the architecture.
        file: The file; a configuration beside it has been read by :func:`normalization_of_file`.
        built: Whether the architecture has QuickGELU.
        tags: open_clip's entries of the architecture's known weights, by their tags.
        architectures: Names that open_clip knows.

    Raises:
        ValueError: If the activations differ.
    """
    beside, wanted, teller = file.with_name(CONFIG_FILE), built, ""
    model = json.loads(beside.read_text(encoding="utf-8")).get("model_cfg") if beside.is_file() else None
    if isinstance(model, dict) and model:
        wanted, teller = bool(model.get("quick_gelu")), f"the {CONFIG_FILE} beside it"
    elif tag := _forced_quick_gelu(file, tags):
        wanted, teller = True, f"the tag {tag!r} in its path"
    if wanted == built:
        return
    other = f"{name}-quickgelu" if wanted else name.removesuffix("-quickgelu")
    known = other != name and other in architectures
    words = {True: "QuickGELU", False: "GELU"}
    msg = f"The weights '{file}' are for {words[wanted]} (by {teller}), but {name} is built with {words[built]}: " + (
        f"pass --model.backbone {other}." if known else "choose another backbone, or other weights."
    )
    raise ValueError(msg)


def _forced_quick_gelu(file: Path, tags: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the tag in a file's path for which open_clip replaces GELU; ``None`` if there is none, or others too."""
    place = _place(file)
    forced: dict[str, str | None] = {}
    for tag, config in tags.items():
        for mark in {_plain(tag), _plain(config.get("hf_hub", "").rpartition("/")[0])} - {""}:
            if mark in place:
                forced[mark] = tag if config.get("quick_gelu") else None
    # dfn2b is part of dfn2b_s39b, which has GELU: the longer one counts
    found = {tag for mark, tag in forced.items() if not any(mark in more and mark != more for more in forced)}
    named = sorted(filter(None, found))
    return named[0] if named and None not in found else None


def _place(file: Path) -> str:
    """Return a file's name and the folders above it, written as tags are."""
    return _plain("/".join(file.absolute().parts[-_FOLDERS - 1 :]))


def _plain(text: str) -> str:
    """Return a text in which tags and names of repositories are written alike."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower())
