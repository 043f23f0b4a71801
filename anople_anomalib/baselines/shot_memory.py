# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How a model that learns nothing but its shots is trained inside anomalib's engine."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anople_anomalib.backbones.timm_loading import RANDOM, feature_layers, load_features, require_known
from anople_anomalib.deployment.components import ExactEvaluation, ExactPreProcessor, exact_pre_processor
from anople_anomalib.deployment.export import WholeOnnx
from anople_anomalib.method.state_checks import require_trained
from anople_anomalib.training.checkpoints import complete_checkpoint
from anople_anomalib.training.finalization import Finalization
from anople_anomalib.utils.batches import images_of, paths_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeaturePyramid(nn.Module):
    """A frozen convolutional network that hands out the maps of some of its stages.

    The baselines' papers start from these maps as they are, each with its own pooling and resizing, while
    :class:`anople_anomalib.backbones.timm_features.MemoryBackbone` hands out patch features that are pooled and on one
    grid, of transformers as well.

    Args:
        backbone: A model name of timm, or ``"efficientnet-lite0"``, whose weights need no download.
        strides: Strides of the stages that the method of the paper takes, in ascending order.
        layers: Names of the stages, as many, for another choice; ``None`` for those with the strides.
        pre_trained: Whether it has its pretrained weights; random ones are for tests and speed measurements only.

    Raises:
        ValueError: If the name is unknown, or the network has no such stages.
        FileNotFoundError: If the weights are neither here nor to be downloaded.
    """

    def __init__(
        self,
        backbone: str,
        strides: Sequence[int],
        layers: Sequence[str] | None = None,
        pre_trained: bool = True,
    ) -> None:
        super().__init__()
        config = require_known(backbone, "backbone")
        self.mean, self.std = tuple(config.mean), tuple(config.std)
        stages = feature_layers(backbone, "backbone")
        names, reductions = list(stages), list(stages.values())
        if layers is None and (not set(strides) <= set(reductions) or len(set(reductions)) != len(reductions)):
            msg = f"backbone {backbone} has stages with the strides {reductions}, the method needs {list(strides)}."
            raise ValueError(msg)
        if layers is not None and (len(layers) != len(strides) or not set(layers) <= set(names)):
            msg = f"layers must be {len(strides)} of {', '.join(names)} for {backbone}, got {list(layers)!r}."
            raise ValueError(msg)
        indices = [reductions.index(stride) for stride in strides] if layers is None else [*map(names.index, layers)]
        self.extractor = load_features(backbone, indices, None if pre_trained else RANDOM, "backbone")
        with torch.no_grad():
            self.widths = [maps.shape[1] for maps in self.extractor.eval()(torch.zeros(1, 3, 64, 64))]
        self.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "FeaturePyramid":
        """Stay in evaluation mode, whatever the mode of the parent."""
        del mode
        return super().train(mode=False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute a map ``(B, C_i, H_i, W_i)`` per stage of images ``(B, 3, H, W)``, normalized by mean and std."""
        return self.extractor(images)

    @staticmethod
    def joined(maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Concatenate maps from fine to coarse, resized to the finest, shape ``(B, C_1 + C_2 + ..., H_1, W_1)``."""
        size = maps[0].shape[-2:]
        return torch.cat([maps[0], *(F.interpolate(each, size, mode="bilinear") for each in maps[1:])], dim=1)


class ShotModel(nn.Module):
    """A torch model that is filled from the features of the shots.

    Attributes:
        is_fitted: Buffer that says whether it is.
    """

    is_fitted: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("is_fitted", torch.tensor(data=False))

    def require_shots(self) -> None:
        """Refuse to judge before there are shots; an export is made of a model that has them."""
        if not torch.compiler.is_compiling():
            require_trained(type(self).__name__.removesuffix("Model"), trained=bool(self.is_fitted))

    @abstractmethod
    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the features to keep of images of shape ``(B, 3, h, w)``, one row per image."""

    @abstractmethod
    def fit(self, features: Sequence[torch.Tensor]) -> None:
        """Fill the model from the features of all shots."""


class ShotMemory(ExactEvaluation, WholeOnnx, Finalization):
    """Lightning hooks for a model without gradients, mixed into it: one pass over the shots fills it.

    Another training run fills it anew. The shots are taken in the order of their file names, so that the order in
    which an epoch shows them does not matter.
    """

    model: ShotModel
    _shots: Mapping[str, tuple[torch.Tensor, ...]] = MappingProxyType({})  # none before a run

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments for the trainer: one pass, on one device, as anomalib's models with a memory have them."""
        return {"gradient_clip_val": 0, "max_epochs": 1, "num_sanity_val_steps": 0, "devices": 1}

    @property
    def learning_type(self) -> LearningType:
        """One-class: anomalib's engine trains no model that calls itself few-shot."""
        return LearningType.ONE_CLASS

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill the model before its last checkpoint."""
        super().on_save_checkpoint(checkpoint)
        complete_checkpoint(self, checkpoint)

    @staticmethod
    def configure_optimizers() -> None:
        """Configure no optimizer: nothing has a gradient."""

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> ExactPreProcessor:
        """Configure the default: resize to height and width (256), and normalize as the backbone was trained."""
        size = list(image_size or (256, 256))
        resize = Resize(size, interpolation=InterpolationMode.BILINEAR, antialias=True)
        return ExactPreProcessor(Compose([resize, Normalize(mean=list(mean), std=list(std))]))

    @classmethod
    def pre_processor_of(cls, pyramid: FeaturePyramid, given: nn.Module | bool) -> nn.Module | bool:
        """Return the pre-processor for a network's features: the default for ``True``; else the user's, made exact."""
        default = cls.configure_pre_processor(mean=pyramid.mean, std=pyramid.std)
        return exact_pre_processor(default if given is True else given)

    @property
    def is_finalized(self) -> bool:
        """Whether the model holds the shots of the last training run."""
        return bool(self.model.is_fitted)

    def on_train_epoch_start(self) -> None:
        """Forget the features of an earlier pass."""
        self.forget_shots()
        self.model.is_fitted.fill_(value=False)

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Keep the features of the batch's normal images; a loss of 0, as Lightning wants one."""
        with torch.no_grad():
            self.keep_shots(batch, batch_idx, self.model.features(images_of(batch)))
        return torch.zeros((), requires_grad=True, device=self.device)

    def forget_shots(self) -> None:
        """Forget the features of the shots."""
        self._shots = {}

    def keep_shots(self, batch: Batch, batch_idx: int, features: Sequence[torch.Tensor]) -> None:
        """Keep a batch's features, one row per image, until :meth:`finalize`, once per file; none without a memory."""
        rows = list(zip(*features, strict=True))
        paths = paths_of(batch) or [f"{batch_idx:09d} {row:09d}" for row in range(len(rows))]
        self._shots = {**self._shots, **dict(zip(map(str, paths), rows, strict=False))}

    @torch.no_grad()
    def finalize(self) -> None:
        """Fill the model from the features of the shots; without any it stays as it is."""
        shots = [self._shots[path] for path in sorted(self._shots)]
        if shots:
            self.model.fit([torch.stack(features) for features in zip(*shots, strict=True)])
            self.model.is_fitted.fill_(value=True)
        self._shots = {}

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predict a batch, and return it with ``pred_score`` and ``anomaly_map``."""
        del args, kwargs
        return batch.update(**self.model(images_of(batch))._asdict())

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:  # type: ignore[override]  # anomalib's, not Lightning's
        """Write one ONNX file, weights included; see ``ExportMixin.to_onnx``."""
        self.require_training()
        return super().to_onnx(*args, **kwargs)
