# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoint files that are written whole, and read as plain data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeGuard

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch import Trainer

from anople_anomalib.utils.files import READ_ERRORS, written_whole
from anople_anomalib.utils.version import __version__

_READABLE_BEFORE = (["0", "1"],)  # earlier series whose checkpoints this version reads
_NAMED_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError)  # name the file themselves


class GuardedCheckpointIO(CheckpointIO):
    """Checkpoint plugin that writes a file completely or not at all, and reads nothing but plain data.

    Lightning writes into the system's temporary folder and moves the file from there. Where that folder is on another
    device, a move is a copy, and a process that is killed while it copies leaves half a checkpoint.

    Args:
        inner: What Lightning or anomalib would use alone.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write beside the final file, then rename."""
        if not isinstance(self.inner, TorchCheckpointIO) or "://" in str(path):  # written later, or elsewhere
            self.inner.save_checkpoint(checkpoint, path, storage_options)
            return
        with written_whole(path) as temporary:
            self.inner.save_checkpoint(checkpoint, temporary, storage_options)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read tensors and plain data, whatever ``weights_only`` says.

        Raises:
            ValueError: If the file is damaged, holds more than that, or is no checkpoint of AnoPLe.
        """
        del weights_only
        with _clear_read_errors(path):
            checkpoint = self.inner.load_checkpoint(path, map_location=map_location, weights_only=True)
        check_metadata(checkpoint)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        """Let the inner one finish."""
        self.inner.teardown()


def guard_checkpoints(trainer: Trainer) -> None:
    """Let a trainer write and read checkpoints by :class:`GuardedCheckpointIO`."""
    if not isinstance(trainer.strategy.checkpoint_io, GuardedCheckpointIO):
        trainer.strategy.checkpoint_io = GuardedCheckpointIO(trainer.strategy.checkpoint_io)


def read_checkpoint(path: str | Path | IO[bytes], map_location: Any = "cpu") -> dict[str, Any]:  # noqa: ANN401
    """Read a checkpoint of AnoPLe.

    Args:
        path: Its file.
        map_location: Where its tensors are put, as for ``torch.load``.

    Returns:
        Its content.

    Raises:
        ValueError: If the file is damaged, holds more than tensors and plain data, or is no checkpoint of AnoPLe.
    """
    with _clear_read_errors(path):
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    check_metadata(checkpoint)
    return checkpoint


@contextmanager
def _clear_read_errors(path: str | Path | IO[bytes]) -> Iterator[None]:
    """Turn whatever a damaged file raises into one error message that names it."""
    try:
        yield
    except FileNotFoundError as error:
        msg = f"There is no checkpoint '{path}': check the path."
        raise FileNotFoundError(msg) from error
    except _NAMED_ERRORS:
        raise
    except READ_ERRORS as error:
        msg = (
            f"The checkpoint '{path}' is refused: it is truncated or damaged, or holds more than tensors and plain "
            "data, which is never read."
        )
        raise ValueError(msg) from error


def check_metadata(checkpoint: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """Refuse what is no checkpoint of AnoPLe, or one of an incompatible version.

    Args:
        checkpoint: Content of the file.

    Returns:
        Its metadata.

    Raises:
        ValueError: If parts are missing or malformed, or the version that wrote it is of a series that this one does
            not read.
    """
    metadata = checkpoint.get("anople") if isinstance(checkpoint, Mapping) else None
    if not _well_formed(metadata) or not isinstance(checkpoint.get("state_dict"), dict):
        msg = "This is not a checkpoint of AnoPLe."
        raise ValueError(msg)
    if _series(metadata["version"]) not in (_series(__version__), *_READABLE_BEFORE):
        msg = (
            f"The checkpoint was written by version {metadata['version']} of anople_anomalib, which version "
            f"{__version__} cannot read: install that version, or train again."
        )
        raise ValueError(msg)
    return metadata


def _well_formed(metadata: Any) -> TypeGuard[Mapping[str, Any]]:  # noqa: ANN401
    """Return whether the metadata has all entries, of the right types."""
    if not isinstance(metadata, Mapping):
        return False
    texts = [metadata.get(name) for name in ("version", "backbone", "weights")]
    names, shots = metadata.get("class_names"), metadata.get("drawn_samples")
    lists = [names, *shots.values()] if isinstance(shots, Mapping) else [None]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists)
        and isinstance(metadata.get("memory_layers"), list)
        and isinstance(metadata.get("residual_decoder"), bool)
    )


def _series(version: str) -> list[str]:
    """Return the part of a version within which checkpoints can be read, as semantic versioning has it."""
    numbers = version.split(".")
    return numbers[:2] if numbers[0] == "0" else numbers[:1]
