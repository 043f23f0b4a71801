# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints are written whole and read as plain data."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from anople_anomalib.training.checkpoint_files import check_metadata, read_checkpoint
from anople_anomalib.utils.version import __version__

METADATA = {
    "version": __version__,
    "backbone": "ViT-miniature",
    "weights": "random",
    "memory.layers": [2, 3],
    "training.decoder": "plain",
    "class_names": ["bottle"],
    "drawn_samples": {"bottle": ["000.png"]},
}
CONTENT = {"anople": METADATA, "state_dict": {"weight": torch.arange(100.0)}}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        """What pickle runs."""
        return Path.touch, (self.path,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "model.ckpt", tmp_path / "the bomb went off"
    torch.save({**CONTENT, "callbacks": Bomb(mark)}, path)
    with pytest.raises(ValueError, match=r"'.*model.ckpt' is refused: .* holds more than tensors and plain data"):
        read_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_truncated_and_damaged_files_are_refused_with_a_clear_error(tmp_path: Path) -> None:
    path, rng = tmp_path / "model.ckpt", random.Random(0)
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer)
    whole = buffer.getvalue()
    directory = whole.rindex(b"PK\x01\x02")  # of the archive that the file is
    for _ in range(60):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(ValueError, match=r"^The checkpoint '.*model.ckpt' is refused: it is truncated or damaged"):
            read_checkpoint(path)
    path.write_bytes(whole[:directory] + bytes(len(whole) - directory))
    with pytest.raises(ValueError, match="is refused"):
        read_checkpoint(path)


def test_a_single_changed_byte_of_a_weight_is_refused(tmp_path: Path) -> None:
    """torch.load reads it as another number."""
    path = tmp_path / "model.ckpt"
    torch.save({**CONTENT, "state_dict": {"weight": torch.arange(1000.0)}}, path)
    read_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 2002] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match=r"model.ckpt' is refused: it is truncated or damaged \(the checksum of "):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing.ckpt"):
        read_checkpoint(tmp_path / "missing.ckpt")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"state_dict": {}},
        {"anople": METADATA},
        {"anople": METADATA, "state_dict": []},
        {"anople": [], "state_dict": {}},
        *({"anople": {**METADATA, name: 3}, "state_dict": {}} for name in METADATA),
        *({"anople": {k: v for k, v in METADATA.items() if k != name}, "state_dict": {}} for name in METADATA),
        {"anople": {**METADATA, "drawn_samples": {"bottle": [3]}}, "state_dict": {}},
    ],
)
def test_other_content_is_no_checkpoint_of_anople(content: Any) -> None:
    with pytest.raises(ValueError, match="This is not a checkpoint of AnoPLe"):
        check_metadata(content)


@pytest.mark.parametrize(
    ("own", "other", "readable"),
    [
        ("0.2.0", "0.2.7", True),
        ("0.2.0", "0.1.0", False),
        ("0.2.0", "0.3.0", False),
        ("0.2.0", "1.1.0", False),
        ("1.2.0", "1.5.3", True),
        ("1.2.0", "2.0.0", False),
        ("1.2.0", "nonsense", False),
    ],
)
def test_versions_of_readable_series_are_read(
    monkeypatch: pytest.MonkeyPatch, own: str, other: str, readable: bool
) -> None:
    monkeypatch.setattr("anople_anomalib.training.checkpoint_files.__version__", own)
    content = {**CONTENT, "anople": {**METADATA, "version": other}}
    if readable:
        check_metadata(content)
        return
    with pytest.raises(ValueError, match=f"written by version {other} of anople_anomalib, which version {own} cannot"):
        check_metadata(content)
