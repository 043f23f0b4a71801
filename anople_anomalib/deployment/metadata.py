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

from anople_anomalib.utils.files import digest_of, written_whole

FORMAT = 1
"""Version of the file's layout."""


@dataclass(frozen=True)
class ExportMetadata:
    """Description of an exported graph; thresholds and limits are raw scores of "image" and "pixel", or None."""

    model_id: str  # digest of weights, memory, thresholds and region of interest; two exports of one model share it
    files: dict[str, str]  # SHA-256 of the graph's files, by their names
    thresholds: dict[str, float | None]  # where the normalized score is 0.5
    limits: dict[str, float | None]  # above which the graph calls something anomalous: thresholds and sensitivities
    look: list[float] | None  # raw scores above the first and up to the second of which the verdict is LOOK
    good: list[float]  # raw scores of the good parts behind the threshold
    normalized: bool  # whether the graph gives x / (x + threshold) instead of the raw score x
    class_names: list[str]  # of the parts that the model was trained on
    image_size: list[int]  # height and width to which the graph resizes images
    input_size: list[int] | None  # height and width that the graph takes; None for images of any size
    roi_shape: list[int] | None  # height and width of images for the region of interest: no score for other shapes
    known_images: list[str]  # digests of the pixels of shots and calibration: no study may rest on them
    compression: str | None  # "FP16", "INT8_PTQ" and so on, None for full precision
    versions: dict[str, str]  # of the packages behind the export, by their names
    format: int = FORMAT


def metadata_file(graph: Path) -> Path:
    """Return the path of a graph's metadata: the same name with the ending ``.json``."""
    return graph.with_suffix(".json")


def write_metadata(metadata: ExportMetadata, graph: Path) -> None:
    """Write metadata beside a graph, with a checksum of all the rest."""
    content = asdict(metadata)
    text = json.dumps({**content, "checksum": _checksum(content)}, indent=2, ensure_ascii=False) + "\n"
    with written_whole(metadata_file(graph)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_metadata(graph: str | Path) -> ExportMetadata:
    """Read the metadata beside a graph, and check that they belong together.

    Args:
        graph: File of the graph, ``.onnx``, ``.xml`` or ``.pt``.

    Raises:
        FileNotFoundError: If the graph or its metadata is missing.
        ValueError: If the metadata is not of this format, was changed, or is that of another graph.
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
    for name in (graph.name, *metadata.files):
        part = graph.with_name(name)
        if not part.is_file() or digest_of(part) != metadata.files.get(name):
            msg = f"'{file}' describes another '{name}' than the one beside it: export the model again."
            raise ValueError(msg)
    return metadata


def _checked(content: object, file: Path) -> ExportMetadata:
    """Return the metadata in a file's content, which nobody has changed: so its values are those that were written."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        msg = f"'{file}' is no metadata of an export of format {FORMAT}, got {found!r}: export the model again."
        raise ValueError(msg)
    known = {field.name for field in fields(ExportMetadata)} | {"checksum"}
    if odd := sorted(known.symmetric_difference(content)):
        msg = f"'{file}' must hold {', '.join(sorted(known))}; missing or unknown: {', '.join(odd)}."
        raise ValueError(msg)
    if content.pop("checksum") != _checksum(content):
        msg = (
            f"'{file}' was changed after the export, but its graph judges by the thresholds that were exported: change "
            "those of the checkpoint, and export it again."
        )
        raise ValueError(msg)
    return ExportMetadata(**content)


def _checksum(content: dict[str, Any]) -> str:
    """Return a digest of metadata without their checksum."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
