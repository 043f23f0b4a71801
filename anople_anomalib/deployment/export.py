# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A trained AnoPLe as it is exported: what detection needs, and nothing else."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
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
from torch.utils.data import DataLoader

from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.metrics.category_scores import IMAGE, PIXEL
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.training.hooks import FewShotTraining
from anople_anomalib.utils.files import STRETCHED, digest_of, written_whole
from anople_anomalib.utils.transforms import require_one_transform
from anople_anomalib.utils.version import __version__

from .metadata import ExportMetadata, metadata_file, to_json

if TYPE_CHECKING:
    import openvino

_LINEAR_LAYERS = 4  # of a block: queries, keys and values; the heads' output; two of the MLP

_VERSIONED = ("anomalib", "torch", "onnx", "openvino", "nncf")  # names of modules and distributions alike
NAME = "anople_anomalib"

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
        """Return what detection needs of this model, on the CPU.

        Raises:
            RuntimeError: If the model is not trained.
            ValueError: If its pre-processor cannot be exported as it is.
        """
        self.require_training()
        require_one_region(self)
        require_one_transform(self.pre_processor)
        return Detector(self.pre_processor, self.model, self.post_processor, self.roi_shape)


def require_one_region(model: object) -> None:
    """Refuse images without names, as in an exported model, where each has a region of interest by its name.

    Args:
        model: The Lightning model.

    Raises:
        ValueError: If its regions come from a folder of masks.
    """
    if (folder := getattr(model, "roi_folder", None)) is not None:
        msg = (
            f"This model has a region of interest per image (roi='{folder}'), by its name, which images in memory, "
            "exported models and new thresholds do not have: train it with one mask or polygon for all."
        )
        raise ValueError(msg)


class WholeOnnx(ExportMixin):
    """anomalib's exports, whose ONNX is one file in an operator set that the exporter need not convert to."""

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # as in anomalib, for torch.onnx.export
    ) -> Path:
        """Write one ONNX file, weights included; see ``ExportMixin.to_onnx``."""
        kwargs = {"opset_version": _OPSET, "external_data": False, **kwargs}
        return super().to_onnx(export_root, model_file_name, input_size, **kwargs)


class Detector(WholeOnnx, LightningModule):  # type: ignore[misc]  # both have to_onnx; anomalib's counts
    """Pre-processing, detection and post-processing of images, without text tower and training parts.

    Args:
        pre_processor: The model's pre-processor, or ``None``.
        model: The trained model.
        post_processor: The model's post-processor, or ``None``.
        roi_shape: Height and width of the images that its region of interest is for, if there is one.
    """

    model: AnoPLeModel

    def __init__(
        self,
        pre_processor: nn.Module | None,
        model: AnoPLeModel,
        post_processor: nn.Module | None,
        roi_shape: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.roi_shape = roi_shape
        self.pre_processor, self.post_processor = _without_trainer(pre_processor), _without_trainer(post_processor)
        self.model = model.for_inference()

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Detect anomalies.

        Args:
            images: Shape ``(B, 3, H, W)``, values in [0, 1].

        Returns:
            Scores, labels, maps and masks, as of the trained model.
        """
        # a frame of NaN (a failed flat-field division) is never good: not OK, and no score; nor is one that the region
        # of interest would be stretched over
        broken = ~torch.isfinite(images).flatten(1).all(dim=1, keepdim=True)
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
        """Write the metadata of an export beside it, see :mod:`.metadata`.

        Args:
            path: The exported file.
            class_names: Names of the parts.
            input_size: Height and width that it takes; ``None`` for images of any size.
            compression: How OpenVINO's weights are compressed.

        Returns:
            The same path.
        """
        thresholds: dict[str, float | None] = {IMAGE: None, PIXEL: None}
        limits, normalized, zone, known = dict(thresholds), False, None, list[str]()
        if isinstance(processor := self.post_processor, ExactPostProcessor):
            thresholds = {IMAGE: _number(processor.image_threshold), PIXEL: _number(processor.pixel_threshold)}
            known = processor.known_images
            normalized = processor.enable_normalization and thresholds[IMAGE] is not None
            if processor.enable_thresholding:
                zone = processor.zone() if processor.look else None
                limits = {level: _number(processor.limit(level)) for level in (IMAGE, PIXEL)}
        files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
        metadata = ExportMetadata(
            model_id=self.model_id(),
            files={file.name: digest_of(file) for file in files},
            thresholds=thresholds,
            limits=limits,
            look=None if zone is None else list(zone),
            normalized=normalized,
            class_names=list(class_names),
            image_size=list(self.model.input_size),
            input_size=None if input_size is None else list(input_size),
            roi_shape=self.roi_shape,
            known_images=known,
            compression=None if compression is None else compression.value.upper(),
            versions={name: version(name) for name in _VERSIONED if module_available(name)} | {NAME: __version__},
        )
        with written_whole(metadata_file(path)) as temporary:
            temporary.write_text(to_json(metadata), encoding="utf-8")
        return path

    def model_id(self) -> str:
        """Return a digest of all that decides about a verdict: weights, memory, thresholds, region of interest."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict(keep_vars=True).items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def _post_training_quantization_ov(  # type: ignore[override]  # static in anomalib, which calls it on the instance
        self, model: "openvino.Model", datamodule: AnomalibDataModule | None = None
    ) -> "openvino.Model":
        """Quantize as anomalib's ``INT8_PTQ``, but as a transformer, with the method's own matmuls in full precision.

        Args:
            model: The converted model.
            datamodule: Where the images for the calibration come from: its validation images, else those for training.

        Returns:
            The quantized model.

        Raises:
            ValueError: If there is no datamodule.
        """
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        if datamodule is None:
            msg = "INT8_PTQ calibrates on images: give the data that the model was trained on (--data, datamodule=)."
            raise ValueError(msg)
        datamodule.setup("fit")
        # of good parts alone there is no validation set: those for training are as good a sample of what comes
        sample = vars(datamodule).get("val_data") or datamodule.train_data
        images = DataLoader(sample, batch_size=1, collate_fn=sample.collate_fn)
        return nncf.quantize(
            model,
            nncf.Dataset(images, lambda batch: batch.image.numpy()),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=[*self._precise_matmuls(model), *self._precise_convolutions(model)]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX  # a mean would cut anomalies off
            ),
        )

    def _precise_matmuls(self, model: "openvino.Model") -> list[str]:
        """Name the matmuls that INT8 leaves alone.

        They are those that resize, project, and compare with texts and memory (a cosine distance is a small difference
        of numbers near 1, of which eight bits leave nothing), and the linear layers of the first block, where a few
        channels are so large that eight bits leave nothing of the others.

        Exporters give matmuls no names to know them by. Known are the shapes, the order, and that images are resized
        before the first convolution cuts them into patches.
        """
        factors = [self.model.text_features, self.model.clip.visual.visual.proj]
        if self.model.memory_bank is not None:
            factors += self.model.memory_bank.parts()
        if (second := self.model.second_memory) is not None:  # squared distances are small differences, too
            factors += [*second.memory_bank.parts(), *second.backbone.parameters()]
        shapes = {frozenset(factor.shape) for factor in factors}
        # from what the model takes to what CLIP sees, which may come after the second backbone's convolutions
        resized = zip(self.model.input_size, self.model.image_size, strict=True)
        shapes |= {frozenset(sides) for sides in resized if sides[0] != sides[1]}  # of one length: no matmul
        if self.model.tiling.number > 1:  # the merging of their maps
            tiling, side = self.model.tiling, self.model.image_size
            counts = zip(tiling.canvas(side), (tiling.rows * side[0], tiling.columns * side[1]), strict=True)
            shapes |= {frozenset(sides) for sides in counts}
        precise, linear, in_patches = [], [], False
        for operation in model.get_ordered_ops():
            in_patches = in_patches or operation.get_type_name() == "Convolution"
            if operation.get_type_name() != "MatMul":
                continue
            constants = list(_static_shapes(operation))
            if not in_patches or any(shape in shapes for shape in constants):
                precise.append(operation)
            elif constants:
                linear.append(operation)
        return [matmul.get_friendly_name() for matmul in (*precise, *linear[:_LINEAR_LAYERS])]

    def _precise_convolutions(self, model: "openvino.Model") -> list[str]:
        """Name the convolutions that INT8 leaves alone: all that are not CLIP's or the decoder's."""
        if self.model.second_memory is None:
            return []
        parts = (self.model.clip.visual, self.model.decoder)
        weights = [weight for part in parts if part is not None for weight in part.parameters()]
        known = {tuple(weight.shape) for weight in weights if weight.dim() == 4}
        names = []
        for operation in model.get_ordered_ops():
            kind = operation.get_type_name()
            shape = tuple(operation.input(1).get_partial_shape().to_shape()) if kind == "Convolution" else None
            if kind == "GroupConvolution" or (kind == "Convolution" and shape not in known):
                names.append(operation.get_friendly_name())
        return names


def _number(threshold: torch.Tensor) -> float | None:
    """Return a threshold as a number; ``None`` for NaN, which stands for none."""
    return None if threshold.isnan() else float(threshold)


def _static_shapes(operation: "openvino.Node") -> Iterator[frozenset[int]]:
    """Yield the lengths of the sides of an operation's constant inputs."""
    for shape in (source.get_partial_shape() for source in operation.input_values()):
        if shape.is_static:
            yield frozenset(shape.to_shape())


def _without_trainer(processor: nn.Module | None) -> nn.Module | None:
    """Copy a processor without the model's methods that Lightning attaches to every callback of a training run."""
    if processor is None:
        return None
    processor = copy.copy(processor)
    for name in ("log", "log_dict"):
        vars(processor).pop(name, None)
    return processor
