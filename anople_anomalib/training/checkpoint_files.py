# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoint files, read as plain data with known names."""

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, TypeGuard
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch

from anople_anomalib.utils.files import EXPORTED, READ_ERRORS
from anople_anomalib.utils.version import __version__

_NAMED_ERRORS = (PermissionError, IsADirectoryError)  # name the file themselves
_OTHER_PLACES = {"hparams", "module_arguments", "hparams_type", "hyper_parameters_type"}
"""Where Lightning looks for hyper-parameters as well, and where no checkpoint of ours has any."""


def read_checkpoint(path: str | Path | IO[bytes], map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint of AnoPLe.

    Args:
        path: Its file.
        map_location: Where its tensors are put, as for ``torch.load``; ``None`` for the CPU.

    Returns:
        Its content.

    Raises:
        ValueError: If the file is damaged, holds more than tensors and plain data, or is no checkpoint of AnoPLe.
    """
    if isinstance(path, (str, Path)) and Path(path).suffix in EXPORTED:
        msg = f"'{path}' is an exported model, for anople judge and qualify alone: give the checkpoint behind it."
        raise ValueError(msg)
    if isinstance(path, (str, Path)):
        require_undamaged(path)
    try:
        checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
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
    check_metadata(checkpoint)
    return checkpoint


def require_undamaged(path: str | Path) -> None:
    """Refuse an archive whose content is not that of its checksums, which torch does not compare: a ``ValueError``.

    A bit that has changed on a disk or on the way would be another weight, and another verdict.
    """
    try:
        with ZipFile(path) if is_zipfile(path) else nullcontext() as archive:
            part = archive and archive.testzip()
    except (*READ_ERRORS, BadZipFile):
        part = "everything"
    if part:
        msg = f"The checkpoint '{path}' is refused: it is truncated or damaged (the checksum of {part} is wrong)."
        raise ValueError(msg)


def check_metadata(checkpoint: Any) -> Mapping[str, Any]:
    """Return the metadata of a checkpoint's content, or refuse what is none of AnoPLe, or of an incompatible version.

    Raises:
        ValueError: If parts are missing or malformed, or this version does not read the series that wrote it.
    """
    metadata = checkpoint.get("anople") if isinstance(checkpoint, Mapping) else None
    if not _well_formed(metadata) or not isinstance(checkpoint.get("state_dict"), dict):
        msg = "This is not a checkpoint of AnoPLe."
        raise ValueError(msg)
    if _series(metadata["version"]) != _series(__version__):
        msg = (
            f"The checkpoint was written by version {metadata['version']} of anople_anomalib, which version "
            f"{__version__} cannot read: install that version, or train again."
        )
        raise ValueError(msg)
    return metadata


def arguments_of(checkpoint: Mapping[str, Any], model_class: type) -> dict[str, Any]:
    """Return the arguments that a checkpoint's model was built with; other names are a ``ValueError``.

    Lightning before 2.6.6 called code that hyper-parameters named, ``weights_only`` or not (CVE-2026-58659): names
    that the class does not have are refused under every version, not left out.
    """
    given, known = checkpoint.get("hyper_parameters") or {}, inspect.signature(model_class).parameters
    odd = [*(set(checkpoint) & _OTHER_PLACES), *(set(given) - set(known) if isinstance(given, Mapping) else [given])]
    if odd:
        msg = (
            f"The checkpoint is refused: its hyper-parameters hold {min(map(str, odd))!r:.80}, which no checkpoint of "
            f"{model_class.__name__} does."
        )
        raise ValueError(msg)
    return dict(given)


def _well_formed(metadata: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether the metadata has all entries, of the right types."""
    if not isinstance(metadata, Mapping):
        return False
    texts = [metadata.get(name) for name in ("version", "backbone", "weights")]
    names, shots = metadata.get("class_names"), metadata.get("drawn_samples")
    lists = [names, *shots.values()] if isinstance(shots, Mapping) else [None]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists)
        and isinstance(metadata.get("memory.layers"), list)
        and isinstance(metadata.get("training.decoder"), str)
        and _is_size(metadata.get("roi_shape"))
    )


def _is_size(size: Any) -> bool:
    """Return whether something is height and width, or nothing."""
    return size is None or (
        isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    )


def _series(version: str) -> list[str]:
    """Return the part of a version within which checkpoints can be read, as semantic versioning has it."""
    numbers = version.split(".")
    return numbers[:2] if numbers[0] == "0" else numbers[:1]
