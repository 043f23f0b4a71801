# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""FastRecon: few-shot industrial anomaly detection via fast feature reconstruction.

Example:
    >>> from anomalib.engine import Engine
    >>> from anople_anomalib.baselines import FastRecon
    >>> from anople_anomalib.data import FewShot

    >>> datamodule = FewShot("MVTecAD", categories=["bottle"], k_shot=2)  # doctest: +SKIP
    >>> Engine().fit(FastRecon(), datamodule=datamodule)  # doctest: +SKIP

Paper:
    Zheng Fang, Xiaoyang Wang, Haocheng Li, Jiejie Liu, Qiugui Hu, Jimin Xiao: FastRecon: Few-shot Industrial Anomaly
    Detection via Fast Feature Reconstruction. ICCV 2023.

See Also:
    :mod:`.torch_model`: the equations.
"""

from collections.abc import Sequence

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anople_anomalib.baselines.shot_memory import FeaturePyramid, ShotMemory
from anople_anomalib.utils.arguments import POSITIVE_SHARE, RATE, as_list, check

from .torch_model import FastReconModel

_STRIDES = (8, 16)


class FastRecon(ShotMemory, AnomalibModule):
    """FastRecon Lightning model: nothing is trained, one pass over the normal images gives coreset and mean.

    Args:
        backbone: A convolutional network of timm with stages of stride 8 and 16, or ``"efficientnet-lite0"``, whose
            weights need no download.
        layers: Names of two stages, from fine to coarse; ``None`` for those strides.
        pre_trained: Whether the backbone has its pretrained weights.
        coreset_sampling_ratio: Share of the shots' patch features that the reconstruction is made of, in (0, 1].
        regularization: lambda, the weight of the normal features' mean.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels; 0 for none.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown.
        FileNotFoundError: If the backbone's weights are not there.
    """

    model: FastReconModel

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] | None = None,
        pre_trained: bool = True,
        coreset_sampling_ratio: float = 0.01,
        regularization: float = 2.0,
        sigma: float = 4.0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        layers = as_list(layers)  # plain data for the checkpoint's hyper-parameters
        check(RATE, regularization=regularization, sigma=sigma)
        check(POSITIVE_SHARE, coreset_sampling_ratio=coreset_sampling_ratio)
        pyramid = FeaturePyramid(backbone, _STRIDES, layers, pre_trained)
        super().__init__(self.pre_processor_of(pyramid, pre_processor), post_processor, evaluator, visualizer)
        self.model = FastReconModel(pyramid, coreset_sampling_ratio, regularization, sigma)
