# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules: few-shot selections of any anomalib datamodule, and photographs that need no download."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .few_shot import FewShot
    from .sample_textures import SampleTextures
    from .sampling import draw_shots

__all__ = ["FewShot", "SampleTextures", "draw_shots"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={"few_shot": ["FewShot"], "sample_textures": ["SampleTextures"], "sampling": ["draw_shots"]},
)
