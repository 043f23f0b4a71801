# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The few-shot comparison pipeline: ``anomalib fewshot --config FILE``.

Importing the package is light; the pipeline, and anomalib with it, is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anople_anomalib.pipeline.few_shot_pipeline import FewShotPipeline

__all__ = ["FewShotPipeline"]


def __getattr__(name: str) -> object:
    """Import the pipeline when it is first asked for.

    Args:
        name: ``"FewShotPipeline"``.

    Returns:
        The class of that name.

    Raises:
        AttributeError: If the package has no such public name.
    """
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from anople_anomalib.pipeline.few_shot_pipeline import FewShotPipeline

    return FewShotPipeline
