# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The file beside an exported graph: plain data that belongs to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from anople_anomalib.anople import AnoPLe
from anople_anomalib.deployment.metadata import ExportMetadata, metadata_file, read_metadata, write_metadata
from anople_anomalib.utils.files import digest_of
from helpers.training import train_model

LEVELS = {"image": 0.5, "pixel": None}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A file that stands for a graph, with its metadata."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    metadata = ExportMetadata(
        "0123",
        {"model.onnx": digest_of(path)},
        LEVELS,
        LEVELS,
        [0.4, 0.6],
        [0.2, 0.3],
        True,
        ["Schraube ä"],
        [240, 240],
        None,
        None,
        [],
        None,
        {"a": "1"},
    )
    write_metadata(metadata, path)
    return path


def test_what_is_written_is_read(graph: Path) -> None:
    metadata = read_metadata(graph)
    assert metadata.limits == LEVELS
    assert metadata.class_names == ["Schraube ä"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": {"image": 0.9, "pixel": None}}, "was changed after the export"),
        ({"limits": {"image": "0.9", "pixel": None}}, "was changed after the export"),
        ({"limits": {"image": 0.9}}, "was changed after the export"),
        ({"look": [0.4]}, "was changed after the export"),
        ({"look": [0.4, None]}, "was changed after the export"),
        ({"files": {"../model.onnx": "0"}}, "was changed after the export"),
        ({"class_path": "os.getcwd"}, "missing or unknown: class_path"),
        ({"format": 2}, "of format 1, got 2"),
    ],
)
def test_other_content_is_refused(graph: Path, changes: dict[str, Any], message: str) -> None:
    file = metadata_file(graph)
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_metadata(graph)


@pytest.mark.parametrize("text", ["[1]", "{", "!!python/object/apply:os.getcwd []"])
def test_a_file_that_holds_something_else_is_refused(graph: Path, text: str) -> None:
    metadata_file(graph).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"is not JSON|is no metadata"):
        read_metadata(graph)


def test_another_graph_beside_the_metadata_is_refused(graph: Path) -> None:
    graph.write_bytes(b"another")
    with pytest.raises(ValueError, match="describes another '"):
        read_metadata(graph)
    graph.unlink()
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_metadata(graph)


@pytest.mark.export
def test_other_thresholds_are_another_model(root: Path, tmp_path: Path) -> None:
    model: AnoPLe = train_model(root, tmp_path)
    first = read_metadata(model.to_torch(tmp_path / "first"))
    assert first.limits["image"] == pytest.approx(float(model.post_processor.image_threshold))
    assert read_metadata(model.to_torch(tmp_path / "again")).model_id == first.model_id
    model.set_thresholds(image=2 * first.limits["image"])
    second = read_metadata(model.to_torch(tmp_path / "second"))
    assert second.limits["image"] == pytest.approx(2 * first.limits["image"])
    assert second.model_id != first.model_id
