# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Whether weights are on this machine already, without a look at the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anople_anomalib.utils.downloads import is_cached

from .clip_loading import TINY, TRUE_URLS
from .package_weights import PACKAGE_WEIGHTS, package_file
from .timm_loading import NO_BACKBONE, hub_source

_CLIP_CACHE = Path("~/.cache/clip")  # of open_clip's downloads


def is_at_hand(settings: Mapping[str, Any]) -> bool:
    """Return whether a preset, or resolved settings, need no download on this machine."""
    clip, tag, second = settings["backbone"], settings["pretrained"], settings["memory"]["backbone"]
    return (clip == TINY or _has_clip(clip, tag)) and (second == NO_BACKBONE or _has_second(second))


def _has_clip(name: str, tag: str) -> bool:
    """Return whether open_clip has downloaded the weights of a tag."""
    url = TRUE_URLS.get((name, tag))
    return url is not None and (_CLIP_CACHE.expanduser() / Path(url).name).is_file()


def _has_second(name: str) -> bool:
    """Return whether the weights of a second backbone are in a package or in the cache of the Hub."""
    if name in PACKAGE_WEIGHTS:
        try:
            return package_file(name).is_file()
        except FileNotFoundError:
            return False
    source = hub_source(name)
    return source is not None and is_cached(*source)
