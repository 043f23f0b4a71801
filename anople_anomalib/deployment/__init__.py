# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A trained model in production: exports, pre-processing, maintenance."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .export import Detector
    from .predictions import PredictionTable

__all__ = ["Detector", "PredictionTable"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"export": ["Detector"], "predictions": ["PredictionTable"]}
)
