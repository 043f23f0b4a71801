# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The file beside an exported graph: its thresholds, sizes, model id and versions, as plain data.

The graph itself judges: its thresholds are constants in it, so that every runtime gives the same verdict. The file says
which they are. It is sealed by checksums: one that was edited, or lies beside another graph, is refused, because rows
would show other thresholds than those behind the verdicts. New thresholds come from the checkpoint by a new export.

This module is part of the runtime without torch: it needs nothing but the standard library.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from anople_anomalib.utils.files import digest_of

FORMAT = 1
"""Version of the file's layout."""

_NUMBER, _PAIR = (int, float), 2
_LEVELS = {"image", "pixel"}


@dataclass(frozen=True)
class ExportMetadata:
    """Description of an exported graph.

    Attributes:
        model_id: Digest of weights, memory, thresholds and region of interest; two exports of one model share it.
        files: SHA-256 of the graph's files, by their names.
        thresholds: Raw thresholds of ``"image"`` and ``"pixel"``, the value of a normalized score of 0.5; ``None``
            where there is none.
        limits: Raw scores above which the graph calls an image or a pixel anomalous: the thresholds, moved by the
            sensitivities.
        look: Raw scores above the first and up to the second of which the verdict is LOOK; ``None`` for none.
        normalized: Whether the graph gives x / (x + threshold) instead of the raw score x.
        class_names: Names of the parts that the model was trained on.
        image_size: Height and width to which the graph resizes images.
        input_size: Height and width that the graph takes; ``None`` for images of any size.
        roi_shape: Height and width of the images that the region of interest is for: the graph gives no score for
            other shapes; ``None`` for no region.
        known_images: SHA-256 of the files of shots and calibration: no study may rest on them.
        compression: ``"FP16"``, ``"INT8_PTQ"`` and so on, ``None`` for full precision.
        versions: Versions of the packages behind the export, by their names.
        format: Version of this layout.
    """

    model_id: str
    files: dict[str, str]
    thresholds: dict[str, float | None]
    limits: dict[str, float | None]
    look: list[float] | None
    normalized: bool
    class_names: list[str]
    image_size: list[int]
    input_size: list[int] | None
    roi_shape: list[int] | None
    known_images: list[str]
    compression: str | None
    versions: dict[str, str]
    format: int = FORMAT


def metadata_file(graph: Path) -> Path:
    """Return the path of a graph's metadata: the same name with the ending ``.json``."""
    return graph.with_suffix(".json")


def to_json(metadata: ExportMetadata) -> str:
    """Return metadata as text, with a checksum of all the rest."""
    content = asdict(metadata)
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2, ensure_ascii=False) + "\n"


def read_metadata(graph: str | Path) -> ExportMetadata:
    """Read the metadata beside a graph, and check that they belong together.

    Args:
        graph: File of the graph, ``.onnx``, ``.xml`` or ``.pt``.

    Raises:
        FileNotFoundError: If the graph or its metadata is missing.
        ValueError: If the metadata is no plain data with the known keys, was changed, or is that of another graph.
    """
    graph = Path(graph)
    file = metadata_file(graph)
    for path, remedy in ((graph, "check the path"), (file, "export the model again from its checkpoint")):
        if not path.is_file():
            msg = f"There is no file '{path}': {remedy}."
            raise FileNotFoundError(msg)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"'{file}' is not JSON ({error}): export the model again from its checkpoint."
        raise ValueError(msg) from error
    metadata = _checked(content, file)
    for name, digest in metadata.files.items():
        part = graph.with_name(name)
        if not part.is_file() or digest_of(part) != digest:
            msg = f"'{file}' describes another '{name}' than the one beside it: export the model again."
            raise ValueError(msg)
    if graph.name not in metadata.files:
        msg = (
            f"'{file}' describes {', '.join(metadata.files) or 'no file'}, not '{graph.name}': export the model again."
        )
        raise ValueError(msg)
    return metadata


def _checked(content: Any, file: Path) -> ExportMetadata:  # JSON
    """Return the metadata in a file's content, which has exactly the known keys and types."""
    known = {field.name for field in fields(ExportMetadata)} | {"checksum"}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        msg = f"'{file}' is no metadata of an export of format {FORMAT}, got {found!r}: export the model again."
        raise ValueError(msg)
    if odd := sorted(known.symmetric_difference(content)):
        msg = f"'{file}' must hold {', '.join(sorted(known))}; missing or unknown: {', '.join(odd)}."
        raise ValueError(msg)
    checksum = content.pop("checksum")
    wrong = [name for name, value in content.items() if not _is_valid(name, value)]
    if wrong:
        msg = f"'{file}' has a value of another kind for {wrong[0]}, got {content[wrong[0]]!r:.60}: export again."
        raise ValueError(msg)
    if checksum != _checksum(content):
        msg = (
            f"'{file}' was changed after the export, but its graph judges by the thresholds that were exported: change "
            "those of the checkpoint, and export it again."
        )
        raise ValueError(msg)
    return ExportMetadata(**content)


def _is_valid(name: str, value: Any) -> bool:
    """Return whether a value has the type that its field has."""
    match name:
        case "files":  # of this folder alone: a name must not lead out of it
            names = value if isinstance(value, dict) else {"/": ""}
            return all(Path(file).name == file and isinstance(digest, str) for file, digest in names.items())
        case "versions":
            return isinstance(value, dict) and all(isinstance(version, str) for version in value.values())
        case "thresholds" | "limits":
            return isinstance(value, dict) and value.keys() == _LEVELS and all(map(_is_threshold, value.values()))
        case "look":
            return value is None or (
                isinstance(value, list) and len(value) == _PAIR and all(map(_is_threshold, value)) and None not in value
            )
        case "class_names" | "known_images":
            return isinstance(value, list) and all(isinstance(word, str) for word in value)
        case "image_size" | "input_size" | "roi_shape":
            return (value is None and name != "image_size") or (
                isinstance(value, list)
                and len(value) == _PAIR
                and all(type(side) is int and side > 0 for side in value)
            )
        case "compression":
            return value is None or isinstance(value, str)
        case "normalized":
            return isinstance(value, bool)
        case _:
            return isinstance(value, (str, int))


def _is_threshold(value: Any) -> bool:
    return value is None or (isinstance(value, _NUMBER) and not isinstance(value, bool) and 0 < value < float("inf"))


def _checksum(content: dict[str, Any]) -> str:
    """Return a digest of metadata without their checksum."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
