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
    from .anomalygpt.lightning_model import AnomalyGPT
    from .fastrecon.lightning_model import FastRecon
    from .inctrl.lightning_model import InCTRL
    from .promptad.lightning_model import PromptAD
    from .regad.lightning_model import RegAD
    from .spade.lightning_model import SPADE
    from .tiny_winclip import TinyWinClip

__all__ = ["SPADE", "AnomalyGPT", "FastRecon", "InCTRL", "PromptAD", "RegAD", "TinyWinClip"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "anomalygpt.lightning_model": ["AnomalyGPT"],
        "fastrecon.lightning_model": ["FastRecon"],
        "inctrl.lightning_model": ["InCTRL"],
        "promptad.lightning_model": ["PromptAD"],
        "regad.lightning_model": ["RegAD"],
        "spade.lightning_model": ["SPADE"],
        "tiny_winclip": ["TinyWinClip"],
    },
)
