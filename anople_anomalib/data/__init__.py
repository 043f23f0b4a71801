# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules: photographs in folders, few shots of any anomalib datamodule, and photographs without a download."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .few_shot import FewShot
    from .parts import Parts
    from .sample_textures import SampleTextures
    from .sampling import draw_shots

__all__ = ["FewShot", "Parts", "SampleTextures", "draw_shots"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "few_shot": ["FewShot"],
        "parts": ["Parts"],
        "sample_textures": ["SampleTextures"],
        "sampling": ["draw_shots"],
    },
)
