# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A trained AnoPLe as it is exported: the parts that detection needs, and nothing else."""

import copy
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataModule, InferenceBatch
from anomalib.deploy import CompressionType
from anomalib.models.components.base.export_mixin import ExportMixin
from lightning.pytorch import LightningModule
from lightning_utilities.core.imports import module_available
from torch import nn

from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.score_counts import IMAGE, PIXEL
from anople_anomalib.training.hooks import FewShotTraining
from anople_anomalib.utils.files import STRETCHED, digest_of
from anople_anomalib.utils.transforms import require_one_transform
from anople_anomalib.utils.version import __version__

if TYPE_CHECKING:
    import openvino

_NO_LIMITS: dict[str, float | None] = {IMAGE: None, PIXEL: None}
_OPSET = 18  # the exporter's own; it would have to convert to anomalib's 14, and fails


class Export(FewShotTraining):
    """anomalib's exports, mixed into the model: each writes a :class:`Detector` instead of the whole model."""

    post_processor: nn.Module | None

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Write a file for anomalib's ``TorchInferencer``; see ``ExportMixin.to_torch``."""
        detector = self.detector()
        return detector.describe(detector.to_torch(export_root, model_file_name), self.class_names)

    def to_onnx(  # type: ignore[override]  # anomalib's arguments, not Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Write an ONNX file; see ``ExportMixin.to_onnx``."""
        detector = self.detector()
        path = detector.to_onnx(export_root, model_file_name, input_size, **kwargs)
        return detector.describe(path, self.class_names, input_size)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        **kwargs: Any,
    ) -> Path:
        """Write an OpenVINO model; see ``ExportMixin.to_openvino``."""
        detector = self.detector()
        path = detector.to_openvino(export_root, model_file_name, input_size, compression_type, **kwargs)
        return detector.describe(path, self.class_names, input_size, compression_type)

    def detector(self) -> "Detector":
        """Return the part of this model that detection needs, on the CPU.

        Raises:
            RuntimeError: If the model is not trained.
            ValueError: If its pre-processor cannot be exported as it is.
        """
        self.require_training()
        self.require_one_region()
        require_one_transform(self.pre_processor)
        return Detector(self.pre_processor, self.model, self.post_processor, self.model_id(), self.roi_shape)

    def model_id(self) -> str:
        """Return a digest of all that decides about a verdict: weights, memory, thresholds, region of interest."""
        digest = hashlib.sha256(repr(self.roi_shape).encode())
        for part in (self.model, self.post_processor or nn.Identity()):
            for name, value in sorted(part.state_dict(keep_vars=True).items()):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def require_one_region(self) -> None:
        """Refuse a model whose regions come from a folder of masks, where images have no names, as in an export."""
        if self.roi_folder is not None:
            msg = (
                f"This model has a region of interest per image (roi='{self.roi_folder}'), by its name, which images "
                "in memory, exported models and new thresholds do not have: train it with one mask or polygon for all."
            )
            raise ValueError(msg)


class WholeOnnx(ExportMixin):
    """anomalib's exports, whose ONNX is one file in an operator set that the exporter need not convert to."""

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:
        """Write one ONNX file, weights included; see ``ExportMixin.to_onnx``."""
        return super().to_onnx(*args, **{"opset_version": _OPSET, "external_data": False, "verbose": False, **kwargs})


class Detector(WholeOnnx, LightningModule):  # type: ignore[misc]  # both have to_onnx; anomalib's counts
    """Pre-processing, detection and post-processing of images, without text tower and training parts.

    Args:
        pre_processor: The model's pre-processor, or ``None``.
        model: The trained model.
        post_processor: The model's post-processor, or ``None``.
        model_id: See :meth:`Export.model_id`.
        roi_shape: Height and width of the images that its region of interest is for, if there is one.
    """

    model: AnoPLeModel

    def __init__(
        self,
        pre_processor: nn.Module | None,
        model: AnoPLeModel,
        post_processor: nn.Module | None,
        model_id: str,
        roi_shape: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.model_id, self.roi_shape = model_id, roi_shape
        self.pre_processor, self.post_processor = _without_trainer(pre_processor), _without_trainer(post_processor)
        self.model = model.for_inference()

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Detect anomalies in images of shape ``(B, 3, H, W)``, values in [0, 1], as the trained model does."""
        # a frame of NaN (a failed flat-field division) is never good: not OK, and no score; nor is one that the region
        # of interest would be stretched over
        lines = images.sum(dim=-1)  # finite where all of a line is, and far fewer numbers to test
        broken = ~torch.isfinite(lines).flatten(1).all(dim=1, keepdim=True)
        if self.roi_shape is not None:
            height, width = (torch.arange(images.shape[axis], device=images.device)[-1] + 1 for axis in (-2, -1))
            stretch = height * self.roi_shape[1] / (width * self.roi_shape[0])
            broken = broken | (stretch > STRETCHED) | (stretch < 1 / STRETCHED)
        images = images if self.pre_processor is None else self.pre_processor(images)
        predictions = self.model(images)
        if self.post_processor is not None:
            predictions = self.post_processor(predictions)
        score, label = predictions.pred_score.reshape(-1, 1), predictions.pred_label
        score = torch.where(broken, torch.nan, score).reshape(predictions.pred_score.shape)
        if label is not None:
            label = (label.reshape(-1, 1) | broken).reshape(label.shape)
        return predictions._replace(pred_score=score, pred_label=label)

    def describe(
        self,
        path: Path,
        class_names: Sequence[str],
        input_size: tuple[int, int] | None = None,
        compression: CompressionType | None = None,
    ) -> Path:
        """Write the metadata of an exported file beside it, see :mod:`.metadata`, and return its path."""
        from .metadata import ExportMetadata, write_metadata

        thresholds, limits, normalized, zone = _NO_LIMITS, _NO_LIMITS, False, None
        known, good = list[str](), list[float]()
        if isinstance(processor := self.post_processor, ExactPostProcessor):
            thresholds = {IMAGE: _number(processor.image_threshold), PIXEL: _number(processor.pixel_threshold)}
            known, good = processor.known_images, processor.normal_scores
            normalized = processor.enable_normalization and thresholds[IMAGE] is not None
            if processor.enable_thresholding:
                zone = processor.zone() if processor.look else None
                limits = {level: _number(processor.limit(level)) for level in (IMAGE, PIXEL)}
        installed = filter(module_available, ("anomalib", "torch", "onnx", "openvino", "nncf"))
        files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
        metadata = ExportMetadata(
            model_id=self.model_id,
            files={file.name: digest_of(file) for file in files},
            thresholds=thresholds,
            limits=limits,
            look=None if zone is None else list(zone),
            good=good,
            normalized=normalized,
            class_names=list(class_names),
            image_size=list(self.model.input_size),
            input_size=None if input_size is None else list(input_size),
            roi_shape=self.roi_shape,
            known_images=known,
            compression=None if compression is None else compression.value.upper(),
            versions={"anople_anomalib": __version__, **{name: version(name) for name in installed}},
        )
        write_metadata(metadata, path)
        return path

    def _post_training_quantization_ov(  # type: ignore[override]  # static in anomalib, which calls it on the instance
        self, model: "openvino.Model", datamodule: AnomalibDataModule | None = None
    ) -> "openvino.Model":
        """Quantize as :func:`.quantization.quantized` does, instead of anomalib's way."""
        from .quantization import quantized

        return quantized(model, self.model, datamodule)


def _number(threshold: torch.Tensor) -> float | None:
    """Return a threshold as a number; ``None`` for NaN, which stands for none."""
    return None if threshold.isnan() else float(threshold)


def _without_trainer(processor: nn.Module | None) -> nn.Module | None:
    """Copy a processor without the model's methods that Lightning attaches to every callback of a training run."""
    if processor is None:
        return None
    processor = copy.copy(processor)
    for name in ("log", "log_dict"):
        vars(processor).pop(name, None)
    return processor
