# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Drawing, writing and reading the k normal images of a few-shot experiment.

The draw depends on the seed, the category and the file names alone: not on the order in which a file system lists
them, not on the machine, and not on a random generator's version. It is nested, too: the images of the 1-shot draw
are among those of the 2-shot draw with the same seed.

Example:
    >>> from anople_anomalib.data.sampling import draw_shots
    >>> names = ["000.png", "001.png", "002.png", "003.png"]
    >>> draw_shots(names, k_shot=2, seed=0, category="bottle")
    [1, 3]
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import yaml
from anomalib import TaskType
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName

from anople_anomalib.utils.arguments import K_SHOT, check
from anople_anomalib.utils.files import relative_names, written_whole

MAX_VALIDATION_IMAGES = 32
"""Images that stand in for a missing validation set, at most."""
_SUFFIXES = (".json", ".yaml", ".yml")


def draw_shots(names: Sequence[str], k_shot: int | None, seed: int, category: str) -> list[int]:
    """Choose ``k_shot`` of the named images.

    The chosen ones have the smallest SHA-256 digest of ``"{seed}/{category}/{name}"``.

    Args:
        names: One name per image; those of ``relative_names`` make the draw the same on every machine.
        k_shot: How many images to choose; ``None`` chooses all of them.
        seed: Seed of the draw.
        category: Category the images belong to.

    Returns:
        Ascending indices into ``names``.

    Raises:
        ValueError: If ``k_shot`` is not positive or larger than the number of images.
    """
    check(K_SHOT, k_shot=k_shot)
    if k_shot is None:
        return list(range(len(names)))
    if k_shot > len(names):
        msg = (
            f"k_shot={k_shot} asks for more images than there are: category '{category}' has {len(names)} normal "
            f"training images; choose at most that many."
        )
        raise ValueError(msg)
    digests = [hashlib.sha256(f"{seed}/{category}/{name}".encode()).digest() for name in names]
    # the smallest digests: a draw of k is part of every larger one
    return sorted(sorted(range(len(names)), key=digests.__getitem__)[:k_shot])


def normal_samples(dataset: AnomalibDataset) -> pd.DataFrame:
    """Return the rows of a data set's normal images; all rows where it does not label them."""
    samples = dataset.samples
    return samples[samples.label_index == LabelName.NORMAL] if "label_index" in samples else samples


def draw_normal_images(
    dataset: AnomalibDataset, k_shot: int | None, seed: int, category: str, wanted: Sequence[str] | None = None
) -> tuple[AnomalibDataset, list[str]]:
    """Draw shots from the normal images of a training set, independently of the order of its files.

    Args:
        dataset: A training set of anomalib.
        k_shot: Number of shots; ``None`` for all.
        seed: Seed of the draw.
        category: Category, part of the seed and named in errors.
        wanted: The shots' names, or file names or stems, in place of a draw.

    Returns:
        The data set of the shots alone, and their names relative to the folder that all normal images share.

    Raises:
        ValueError: If there are no normal images, fewer than shots, or not those that are wanted.
    """
    samples = normal_samples(dataset)
    names = relative_names(samples.image_path)
    if not names:
        msg = f"The training set of category '{category}' has no normal images: at least one is needed."
        raise ValueError(msg)
    chosen = draw_shots(names, k_shot, seed, category) if wanted is None else match_samples(names, wanted, category)
    return dataset.subsample(samples.index[chosen].tolist()), [names[index] for index in chosen]


def other_samples(dataset: AnomalibDataset, shots: AnomalibDataset) -> pd.DataFrame:
    """Return the rows of normal training images that are no shots."""
    samples = normal_samples(dataset)
    return samples[~samples.image_path.isin(shots.samples.image_path)]


def draw_validation_images(dataset: AnomalibDataset, samples: pd.DataFrame, seed: int) -> AnomalibDataset:
    """Draw :data:`MAX_VALIDATION_IMAGES` of the normal images in some rows of a training set, to take thresholds from.

    Of images and of pixels alike: with masks, empty ones.
    """
    names = relative_names(samples.image_path)
    chosen = draw_shots(names, min(len(names), MAX_VALIDATION_IMAGES), seed, "validation") if names else []
    drawn = dataset.subsample(samples.index[chosen].tolist())
    drawn.samples.attrs["task"] = TaskType.SEGMENTATION.value
    return drawn


def match_samples(names: Sequence[str], wanted: Sequence[str], category: str) -> list[int]:
    """Find the images that a sample list asks for: their indices into the names there are, ascending.

    An entry is one of the names, or else the file name (``"003.png"``) or the stem (``"003"``) of exactly one of them.

    Raises:
        ValueError: If the list of a category is empty, or an entry is a path, is missing, fits several images or
            appears twice.
    """
    if not wanted:
        msg = f"The sample list of category '{category}' is empty; name at least one image."
        raise ValueError(msg)
    files = [PurePosixPath(name) for name in names]
    found = set()
    for entry in wanted:
        index = _match_one(files, entry, category)
        if index in found:
            msg = f"The sample list of category '{category}' names '{names[index]}' twice; remove one of the two."
            raise ValueError(msg)
        found.add(index)
    return sorted(found)


def _match_one(files: Sequence[PurePosixPath], entry: str, category: str) -> int:
    """Return the index of the one file whose whole name, else file name, else stem equals ``entry``."""
    hits = [i for i, file in enumerate(files) if str(file) == entry]
    hits = hits or [i for i, file in enumerate(files) if file.name == entry]
    hits = hits or [i for i, file in enumerate(files) if file.stem == entry]
    if len(hits) == 1:
        return hits[0]
    if hits:
        problem = f"fits {len(hits)} images ({', '.join(str(files[i]) for i in hits[:3])}); give a name that fits one"
    elif {"/", "\\"} & set(entry) or entry in {"", ".", ".."}:
        problem = "is not an image's name; give file names or stems, without a folder"
    else:
        problem = f"is not among its {len(files)} normal training images"
    msg = f"The sample list of category '{category}' names '{entry}', which {problem}."
    raise ValueError(msg)


def read_sample_list(path: str | Path) -> dict[str, list[str]]:
    """Read a sample list ``{category: [file names]}``, JSON or YAML by its suffix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is another one, the file cannot be parsed, a category appears twice, or the content
            is not a mapping from categories to lists of names.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        msg = f"The sample list '{path}' does not exist; give the path of a JSON or YAML file."
        raise FileNotFoundError(msg)
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_unique_keys)
        else:
            content = _UniqueKeyLoader(text).get_single_data()
    except (ValueError, yaml.YAMLError) as error:
        msg = f"The sample list '{path}' cannot be read: {error}"
        raise ValueError(msg) from error
    return check_sample_list(content, source=f"The sample list '{path}'")


def check_sample_list(content: object, source: str = "The sample list") -> dict[str, list[str]]:
    """Return the content of a file or an argument that maps categories to lists of file names as plain data.

    Raises:
        ValueError: If it has another form; ``source`` is the subject of the message.
    """
    lists: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    shape_is_right = all(
        isinstance(category, str)
        and isinstance(names, Sequence)
        and not isinstance(names, str)
        and all(isinstance(name, str) for name in names)
        for category, names in lists.items()
    )
    if not lists or not shape_is_right:
        msg = f"{source} must map every category to a list of file names, such as {{'bottle': ['000.png', '017.png']}}."
        raise ValueError(msg)
    return {category: list(names) for category, names in lists.items()}


def write_sample_list(path: str | Path, samples: Mapping[str, Sequence[str]]) -> Path:
    """Write a sample list that :func:`read_sample_list` reads, complete or not at all, and return its path."""
    path = Path(path)
    _check_suffix(path)
    text = json.dumps({category: list(names) for category, names in samples.items()}, indent=2, ensure_ascii=False)
    with written_whole(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return path


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        msg = f"A sample list must end in one of {', '.join(_SUFFIXES)}, got '{path}'."
        raise ValueError(msg)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dictionary of a JSON object's pairs, refusing a key that appears twice."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            msg = f"'{key}' appears twice."
            raise ValueError(msg)
        content[key] = value
    return content


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, refusing a key that appears twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Build a dictionary of a YAML mapping."""
        _unique_keys([(self.construct_object(key, deep=True), value) for key, value in node.value])
        return super().construct_mapping(node, deep=deep)
