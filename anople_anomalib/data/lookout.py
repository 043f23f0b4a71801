# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data sets of Amazon's Lookout for Vision, a service that has ended, as folders.

A manifest has an image a line, in the format of SageMaker Ground Truth: its file, its label, and perhaps a mask whose
colors stand for kinds of anomalies.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image_reading import open_image
from .importing import GOOD, Entry, Part, folder_of, is_background, local

_LABEL, _MASK = "groundtruth/image-classification", "groundtruth/semantic-segmentation"
_LABELS = {"normal": False, "anomaly": True}


def manifest_entries(manifest: Path, files: Path | None) -> list[Entry]:
    """Read a manifest; ``files`` is a folder with a copy of the bucket's files, by default its own.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The manifest '{manifest}' cannot be read: give a text file in UTF-8 with a line of JSON for each image."
        raise ValueError(msg) from error
    folder = files or manifest.parent
    return [
        Entry(f"{manifest.name}, line {number}", _MASK in line, partial(_part_of, line, folder))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _entry_of(line: str) -> dict[str, Any]:
    """Read a line of a manifest as plain data, or raise a ValueError where it is none of an image."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("source-ref"), str):
        msg = f"A line of a manifest has the address of an image as 'source-ref', this one has not: {line:.60}"
        raise ValueError(msg)
    return entry


def _part_of(line: str, files: Path) -> Part:
    """Read a line of a manifest.

    Raises:
        ValueError: If it has no label, or a mask without a map of its colors.
        FileNotFoundError: If a file is not there.
    """
    entry = _entry_of(line)
    image = local(entry["source-ref"], files)
    metadata = {key: meta for key in entry if isinstance(meta := entry.get(f"{key}-metadata"), dict)}
    attributes = {str(meta.get("type")): key for key, meta in metadata.items()}
    if _LABEL not in attributes:
        msg = f"'{image.name}' has no label of the type {_LABEL}."
        raise ValueError(msg)
    name = str(metadata[attributes[_LABEL]].get("class-name", "")).lower()
    if name not in _LABELS:
        msg = f"'{image.name}' is labeled {name!r}, neither 'normal' nor 'anomaly'."
        raise ValueError(msg)
    if not _LABELS[name]:
        return Part(image, GOOD)
    if _MASK not in attributes:
        return Part(image, "anomaly")
    key = attributes[_MASK]
    try:
        classes = metadata[key]["internal-color-map"].values()
        names = {int(each["hex-color"].lstrip("#"), 16): str(each["class-name"]) for each in classes}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        msg = f"The mask of '{image.name}' has no map of its colors ('internal-color-map', with names and hex-colors)."
        raise ValueError(msg) from error
    mask, kinds = _mask_of(local(str(entry[key]), files), names)
    return Part(image, folder_of(kinds), mask)


def _mask_of(file: Path, names: Mapping[int, str]) -> tuple[NDArray[np.bool_], set[str]]:
    """Return where a mask has colors of anomalies, shape ``(H, W)``, and the names of the anomalies in it.

    Raises:
        ValueError: If it has a color that stands for nothing, although the map names the background's.
    """
    pixels = np.asarray(open_image(file).convert("RGB")).astype(np.int32) @ [1 << 16, 1 << 8, 1]
    found = np.unique(pixels).tolist()
    anomalous = {color: names[color] for color in found if color in names and not is_background(names[color])}
    if any(map(is_background, names.values())) and (odd := sorted(set(found) - names.keys())):
        msg = f"The mask '{file.name}' has the color #{odd[0]:06x}, which its color map does not name."
        raise ValueError(msg)
    return np.isin(pixels, list(anomalous)), set(anomalous.values())
