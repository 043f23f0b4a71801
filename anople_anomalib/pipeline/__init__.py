# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The few-shot comparison pipeline: ``anomalib fewshot --config FILE``.

Importing the package is light; the pipeline, and anomalib with it, is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .few_shot_pipeline import FewShotPipeline

__all__ = ["FewShotPipeline"]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"few_shot_pipeline": ["FewShotPipeline"]})
