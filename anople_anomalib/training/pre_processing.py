# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's pre-processor, called for evaluation batches alone."""

from typing import Any

from lightning.pytorch import Callback


class EvaluationPreProcessing(Callback):
    """Callback that runs anomalib's pre-processor at evaluation only.

    A training image is damaged and cut at twice the model's resolution, before it is resized and normalized.

    Args:
        pre_processor: The model's pre-processor.
    """

    def __init__(self, pre_processor: Callback) -> None:
        self.pre_processor = pre_processor

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Transform a validation batch."""
        self.pre_processor.on_validation_batch_start(*args[:4], **kwargs)

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Transform a test batch."""
        self.pre_processor.on_test_batch_start(*args, **kwargs)

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Transform a batch to predict."""
        self.pre_processor.on_predict_batch_start(*args, **kwargs)
