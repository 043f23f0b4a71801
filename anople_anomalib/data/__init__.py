# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules: few-shot selections of any anomalib datamodule, and photographs that need no download."""

import importlib
from typing import Any

_MODULES = {
    "FewShot": ".few_shot_datamodule",
    "SampleTextures": ".sample_textures",
}

__all__ = ["FewShot", "SampleTextures"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a datamodule when it is first asked for."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name], __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names, whether imported or not."""
    return sorted({*globals(), *__all__})
