# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A trained AnoPLe as it is exported: what detection needs, and nothing else."""

from pathlib import Path
from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components.base.export_mixin import ExportMixin
from lightning.pytorch import LightningModule
from torch import nn

from .torch_model import AnoPLeModel

_OPSET = 18  # the exporter's own; it would have to convert to anomalib's 14, and fails


class Export(LightningModule):
    """anomalib's exports, mixed into the model: each writes a :class:`Detector` instead of the whole model."""

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Write a file for anomalib's ``TorchInferencer``; see ``ExportMixin.to_torch``."""
        return self.detector().to_torch(export_root, model_file_name)

    def to_onnx(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401
        """Write an ONNX file; see ``ExportMixin.to_onnx``."""
        return self.detector().to_onnx(export_root, *args, **kwargs)

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401
        """Write an OpenVINO model; see ``ExportMixin.to_openvino``."""
        return self.detector().to_openvino(export_root, *args, **kwargs)

    def detector(self) -> "Detector":
        """What detection needs of this model, on the CPU.

        Raises:
            RuntimeError: If the model is not trained.
        """
        self._require_training()
        return Detector(self.pre_processor, self.model, self.post_processor)


class Detector(ExportMixin, LightningModule):
    """Pre-processing, detection and post-processing of images, without text tower and training parts.

    Args:
        pre_processor: The model's pre-processor, or ``None``.
        model: The trained model.
        post_processor: The model's post-processor, or ``None``.
    """

    def __init__(self, pre_processor: nn.Module | None, model: AnoPLeModel, post_processor: nn.Module | None) -> None:
        super().__init__()
        self.pre_processor, self.post_processor = pre_processor, post_processor
        self.model = model.for_inference()

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Detect anomalies.

        Args:
            images: Shape ``(B, 3, H, W)``, values in [0, 1].

        Returns:
            Scores, labels, maps and masks, as of the trained model.
        """
        images = images if self.pre_processor is None else self.pre_processor(images)
        predictions = self.model(images)
        return predictions if self.post_processor is None else self.post_processor(predictions)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401  # as in anomalib, for torch.onnx.export
    ) -> Path:
        """Write one ONNX file, weights included; see ``ExportMixin.to_onnx``."""
        kwargs = {"opset_version": _OPSET, "external_data": False, **kwargs}
        return super().to_onnx(export_root, model_file_name, input_size, **kwargs)
