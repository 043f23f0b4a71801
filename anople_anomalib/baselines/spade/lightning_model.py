# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""SPADE: sub-image anomaly detection with deep pyramid correspondences.

Example:
    >>> from anomalib.engine import Engine
    >>> from anople_anomalib.baselines import SPADE
    >>> from anople_anomalib.data import FewShot

    >>> datamodule = FewShot("MVTecAD", categories=["bottle"], k_shot=2)  # doctest: +SKIP
    >>> Engine().fit(SPADE(), datamodule=datamodule)  # doctest: +SKIP

Paper:
    Niv Cohen, Yedid Hoshen: Sub-Image Anomaly Detection with Deep Pyramid Correspondences. arXiv:2005.02357 (2020).

See Also:
    :mod:`.torch_model`: the equations.
"""

from collections.abc import Sequence

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anople_anomalib.baselines.shot_memory import FeaturePyramid, ShotMemory
from anople_anomalib.utils.arguments import RATE, as_list, check, integer

from .torch_model import SPADEModel

_STRIDES = (4, 8, 16, 32)  # of the three stages of the pyramid, and of the last one


class SPADE(ShotMemory, AnomalibModule):
    """SPADE Lightning model: nothing is trained, one pass over the normal images keeps their features.

    Args:
        backbone: A convolutional network of timm with stages of stride 4, 8, 16 and 32, or ``"efficientnet-lite0"``,
            whose weights need no download.
        layers: Names of four stages, from fine to coarse: three for the pixels and one for the image; ``None`` for
            those strides.
        pre_trained: Whether the backbone has its pretrained weights.
        num_images: K: normal images whose pixels are looked at, the nearest ones; of fewer shots all.
        num_pixels: kappa: nearest pixels whose distances are averaged.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels; 0 for none.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown.
        FileNotFoundError: If the backbone's weights are not there.
    """

    model: SPADEModel

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] | None = None,
        pre_trained: bool = True,
        num_images: int = 50,
        num_pixels: int = 1,
        sigma: float = 4.0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        layers = as_list(layers)  # plain data for the checkpoint's hyper-parameters
        check(integer(1), num_images=num_images, num_pixels=num_pixels)
        check(RATE, sigma=sigma)
        pyramid = FeaturePyramid(backbone, _STRIDES, layers, pre_trained)
        super().__init__(self.pre_processor_of(pyramid, pre_processor), post_processor, evaluator, visualizer)
        self.model = SPADEModel(pyramid, num_images, num_pixels, sigma)
