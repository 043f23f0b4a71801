# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Sample parts, one click away: files of ``SampleTextures``."""

from pathlib import Path

from anomalib.data.utils import Split

from anople_anomalib.data import SampleTextures
from anople_anomalib.data.sample_textures.datamodule import CATEGORIES

SAMPLES = CATEGORIES
_GOOD = (0, 4, 8, 11)  # of twelve overlapping tiles: four that share little
_ASKED_GOOD = 3


def good_files(category: str) -> list[Path]:
    """Return four good images of a sample part.

    Raises:
        ValueError: If there is no such part.
    """
    files = _files(category, Split.TRAIN, good=True)
    return [files[number] for number in _GOOD]


def files_to_ask(category: str) -> list[Path]:
    """Return three further good images of a sample part, and one of each kind of defect.

    Raises:
        ValueError: If there is no such part.
    """
    kinds = {path.parent.name: path for path in reversed(_files(category, Split.TEST, good=False))}
    return [*_files(category, Split.TEST, good=True)[:_ASKED_GOOD], *sorted(kinds.values())]


def name_of(path: Path) -> str:
    """Return a telling name of a file: its kind (``good`` or the defect) and its number."""
    return f"{path.parent.name}_{path.name}"


def _files(category: str, split: Split, good: bool) -> list[Path]:
    datamodule = SampleTextures(category=category)
    datamodule.prepare_data()
    datamodule.setup()
    samples = (datamodule.train_data if split == Split.TRAIN else datamodule.test_data).samples
    return sorted(Path(path) for path in samples.image_path[(samples.label_index == 0) == good])
