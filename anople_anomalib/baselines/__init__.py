# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Baselines: few-shot models, each written from its paper for anomalib.

They see the same shots, are measured by the same metrics and share AnoPLe's parts where the papers share them:
:class:`SPADE` (images of the k nearest neighbors), :class:`FastRecon` (reconstruction from a coreset),
:class:`PromptAD` (prompts around a frozen CLIP). :class:`RegAD`, :class:`InCTRL` and :class:`AnomalyGPT` learn from
other data before they see the shots (:mod:`.transfer`). :class:`TinyWinClip` is anomalib's WinCLIP over the bundled
CLIP.

Importing the package is light: a model, and anomalib with it, is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .anomalygpt import AnomalyGPT
    from .fastrecon import FastRecon
    from .inctrl import InCTRL
    from .promptad import PromptAD
    from .regad import RegAD
    from .spade import SPADE
    from .tiny_winclip import TinyWinClip

__all__ = ["SPADE", "AnomalyGPT", "FastRecon", "InCTRL", "PromptAD", "RegAD", "TinyWinClip"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "anomalygpt": ["AnomalyGPT"],
        "fastrecon": ["FastRecon"],
        "inctrl": ["InCTRL"],
        "promptad": ["PromptAD"],
        "regad": ["RegAD"],
        "spade": ["SPADE"],
        "tiny_winclip": ["TinyWinClip"],
    },
)
