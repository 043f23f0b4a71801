# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data sets of Amazon's Lookout for Vision, a service that has ended, as folders.

A manifest has an image a line, in the format of SageMaker Ground Truth: its file, its label, and perhaps a mask whose
colors stand for kinds of anomalies.
"""

import glob
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anople_anomalib.utils.files import READ_ERRORS, folder_written_whole, one_line

from .listing import is_good

_LABEL, _MASK = "groundtruth/image-classification", "groundtruth/semantic-segmentation"
_GOOD, _SEVERAL = "good", "several"
_LABELS = {"normal": False, "anomaly": True}
_BACKGROUND = "background"


def import_manifests(train: Path, test: Path | None, files: Path, output: Path) -> tuple[int, list[str]]:
    """Write the images of manifests in the layout of MVTec AD; the folder appears complete or not at all.

    Args:
        train: Manifest of the images for training; anomalous ones among them go to those for testing.
        test: Manifest of the images for testing.
        files: Folder with a copy of the bucket's files.
        output: Folder to make.

    Returns:
        Number of images that were taken, and a sentence for each that was not.

    Raises:
        FileExistsError: If the folder exists.
        NotADirectoryError: If there is no folder of files.
        ValueError: If a manifest cannot be read, or no image could be taken.
    """
    if output.exists():
        msg = f"'{output}' exists already: give a folder that does not, nothing is overwritten."
        raise FileExistsError(msg)
    if not files.is_dir():
        msg = f"There is no folder '{files}' with a copy of the bucket's files: check --files."
        raise NotADirectoryError(msg)
    lines = [("train", train, *line) for line in _lines(train)]
    lines += [("test", test, *line) for line in _lines(test)] if test else []
    masked = any(_MASK in line for *_, line in lines)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(output) as folder:
        reasons = [
            f"{manifest.name}, line {number}: {reason}"
            for subset, manifest, number, line in lines
            if (reason := _take(line, files, folder, subset, masked=masked))
        ]
        if not lines:
            msg = f"The manifest '{train}' is empty: give one with a line of JSON for each image."
            raise ValueError(msg)
        if len(reasons) == len(lines):
            msg = f"None of the {len(lines)} images could be taken, such as {reasons[0]}"
            raise ValueError(msg)
    return len(lines) - len(reasons), reasons


def _take(line: str, files: Path, folder: Path, subset: str, *, masked: bool) -> str:
    """Write the image of a line, or return why it cannot be taken."""
    try:
        _part_of(line, files, masked=masked).write(folder, subset)
    except (*READ_ERRORS, SyntaxError) as error:
        return one_line(error)
    return ""


class _Part(NamedTuple):
    """An image of a manifest, with the mask of its anomalies where there is one."""

    image: Path
    kind: str
    mask: NDArray[np.bool_] | None

    def write(self, folder: Path, subset: str) -> None:
        """Copy it to its place in the layout of MVTec AD: only good parts are trained on."""
        place = folder / (subset if self.kind == _GOOD else "test") / self.kind
        place.mkdir(parents=True, exist_ok=True)
        stem, number = self.image.stem, 1
        while list(place.glob(f"{glob.escape(stem)}.*")):
            stem, number = f"{self.image.stem}_{number}", number + 1
        shutil.copyfile(self.image, place / f"{stem}{self.image.suffix}")
        if self.mask is not None:
            truth = folder / "ground_truth" / self.kind
            truth.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.mask).save(truth / f"{stem}_mask.png")


def _lines(manifest: Path) -> list[tuple[int, str]]:
    """Return the lines of a manifest that are not empty, with their numbers from 1 on."""
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The manifest '{manifest}' cannot be read: give a text file in UTF-8 with a line of JSON for each image."
        raise ValueError(msg) from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _entry_of(line: str) -> dict[str, Any]:
    """Read a line of a manifest as plain data, or raise a ValueError where it is none of an image."""
    entry = json.loads(line)
    if not isinstance(entry, dict) or not isinstance(entry.get("source-ref"), str):
        msg = f"A line of a manifest has the address of an image as 'source-ref', this one has not: {line:.60}"
        raise ValueError(msg)
    return entry


def _part_of(line: str, files: Path, *, masked: bool) -> _Part:
    """Read a line of a manifest.

    Raises:
        ValueError: If it has no label, one that contradicts its mask, or no mask where others have one.
        FileNotFoundError: If a file is not there.
    """
    entry = _entry_of(line)
    image = _local(entry["source-ref"], files)
    with Image.open(image) as opened:
        opened.verify()
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
        return _Part(image, _GOOD, None)
    if _MASK not in attributes and masked:
        msg = (
            f"'{image.name}' is an anomaly without a mask, and others have one: what is not marked would count as good."
        )
        raise ValueError(msg)
    if _MASK not in attributes:
        return _Part(image, "anomaly", None)
    key = attributes[_MASK]
    try:
        classes = metadata[key]["internal-color-map"].values()
        names = {int(each["hex-color"].lstrip("#"), 16): str(each["class-name"]) for each in classes}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        msg = f"The mask of '{image.name}' has no map of its colors ('internal-color-map', with names and hex-colors)."
        raise ValueError(msg) from error
    mask, kinds = _mask_of(_local(str(entry[key]), files), names)
    if mask.shape != (opened.height, opened.width):
        sizes = f"{mask.shape[1]}x{mask.shape[0]} pixels, and the image {opened.width}x{opened.height}"
        msg = f"The mask of '{image.name}' has {sizes}."
        raise ValueError(msg)
    if not kinds:
        msg = f"'{image.name}' is an anomaly, but its mask is empty."
        raise ValueError(msg)
    return _Part(image, kinds[0] if len(kinds) == 1 else _SEVERAL, mask)


def _mask_of(file: Path, names: Mapping[int, str]) -> tuple[NDArray[np.bool_], list[str]]:
    """Return where a mask has colors of anomalies, shape ``(H, W)``, and the names of the anomalies in it.

    Raises:
        ValueError: If it has a color that stands for nothing, although the map names the background's.
    """
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int32) @ [1 << 16, 1 << 8, 1]
    found = {color: names.get(color, _BACKGROUND) for color in np.unique(pixels).tolist()}
    if any(name.lower() == _BACKGROUND for name in names.values()) and (odd := sorted(found.keys() - names.keys())):
        msg = f"The mask '{file.name}' has the color #{odd[0]:06x}, which its color map does not name."
        raise ValueError(msg)
    anomalous: Mapping[int, str] = {color: name for color, name in found.items() if name.lower() != _BACKGROUND}
    for name in anomalous.values():
        if is_good(name) or name != Path(name).name or not name.strip(".") or "\\" in name:
            msg = f"The mask '{file.name}' names an anomaly {name!r}: that is no name of a folder of defects."
            raise ValueError(msg)
    return np.isin(pixels, list(anomalous)), sorted(set(anomalous.values()))


def _local(address: str, files: Path) -> Path:
    """Return the copy of a file of a bucket: the one at the longest end of its address that is there.

    Raises:
        FileNotFoundError: If there is none.
    """
    parts = [part for part in address.removeprefix("s3://").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        if (file := files.joinpath(*parts[start:])).is_file():
            return file
    msg = f"There is no copy of '{address}' in '{files}': copy the bucket there (aws s3 sync)."
    raise FileNotFoundError(msg)
