# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""RegAD: registration based few-shot anomaly detection, a model that learns from other categories first.

Example:
    >>> from anomalib.engine import Engine
    >>> from anople_anomalib.baselines import RegAD
    >>> from anople_anomalib.baselines.transfer import auxiliary_data
    >>> from anople_anomalib.data import FewShot

    >>> model = RegAD(k_shot=2)  # doctest: +SKIP
    >>> model.learn_from_auxiliary(auxiliary_data("Visa", ["candle", "pcb1"], model.pre_processor.transform))
    ... # doctest: +SKIP
    >>> Engine().fit(model, datamodule=FewShot("MVTecAD", ["bottle"], k_shot=2))  # doctest: +SKIP

Paper:
    Chaoqin Huang, Haoyan Guan, Aofan Jiang, Ya Zhang, Michael Spratling, Yan-Feng Wang: Registration based Few-Shot
    Anomaly Detection. ECCV 2022, arXiv:2207.07361.

See Also:
    :mod:`.torch_model`: the equations.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from anomalib.data import AnomalibDataset
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize

from anople_anomalib.baselines.shot_memory import ShotMemory
from anople_anomalib.baselines.transfer import AuxiliaryCategory, AuxiliaryLearner
from anople_anomalib.deployment.components import ExactPreProcessor, exact_pre_processor
from anople_anomalib.method.state_checks import require_finite
from anople_anomalib.utils.arguments import NAME, RATE, check, integer
from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.scoped import seeded

from .torch_model import RegADModel, stages_of

logger = logging.getLogger(__name__)
_STRIDE = 16  # of the last stage, in pixels


class RegAD(AuxiliaryLearner, ShotMemory, AnomalibModule):
    """RegAD Lightning model: the network learns to register images of other categories; the shots give Gaussians.

    All but the Gaussians is learned from auxiliary data, of whose categories the normal training images are taken.
    The authors' program (https://github.com/MediaBrain-SJTU/RegAD) keeps the epoch that is best on test data; here the
    last one counts.

    Args:
        backbone: A ResNet of timm, or ``"efficientnet-lite0"``, whose weights need no download.
        pre_trained: Whether learning starts from its pretrained weights; random ones are for tests alone.
        k_shot: Number of support images for a query while it learns; a comparison gives it that of the data.
        epochs: Number of epochs over the auxiliary data.
        batch_size: Number of queries in a step, all of one category.
        lr: Learning rate of SGD, at the start of its cosine.
        image_size: Side of the square that images are resized to, in pixels; they are not normalized otherwise.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels; 0 for none.
        training_seed: Seed of the first weights and of the order of the auxiliary images.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown.
        FileNotFoundError: If the backbone's weights are not there.
    """

    model: RegADModel

    def __init__(
        self,
        backbone: str = "resnet18",
        pre_trained: bool = True,
        k_shot: int = 1,
        epochs: int = 50,
        batch_size: int = 32,
        lr: float = 1e-4,
        image_size: int = 224,
        sigma: float = 4.0,
        training_seed: int = 0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        check(NAME, backbone=backbone)
        check(integer(1), k_shot=k_shot, epochs=epochs, batch_size=batch_size)
        check(integer(0), training_seed=training_seed)
        check(RATE, lr=lr, sigma=sigma)
        check(integer(max(_STRIDE, int(4 * sigma + 0.5) + 1)), image_size=image_size)  # the blur mirrors the border
        if pre_processor is True:
            square = Resize([image_size, image_size], interpolation=InterpolationMode.BILINEAR, antialias=True)
            pre_processor = ExactPreProcessor(Compose([square]))
        super().__init__(exact_pre_processor(pre_processor), post_processor, evaluator, visualizer)
        with seeded(training_seed):
            self.model = RegADModel(stages_of(backbone, pre_trained), image_size, sigma)

    def learn_from_auxiliary(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> None:
        """Let the network learn to register normal images of the same category to each other, by loss (3).

        Args:
            auxiliary: The data by category; their training images are kept in memory, 150 kB each of 224 pixels.

        Raises:
            ValueError: If a category has fewer than two training images.
            FloatingPointError: If the loss is not finite.
        """
        smallest = min(auxiliary, key=lambda name: len(auxiliary[name].train))
        if len(auxiliary[smallest].train) < 2:
            msg = f"RegAD needs two normal training images of every auxiliary category, '{smallest}' has fewer."
            raise ValueError(msg)
        images = [_images_of(category.train) for category in auxiliary.values()]
        epochs = self.hparams["epochs"]
        self.model.train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.hparams["lr"], momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        with seeded(self.hparams["training_seed"]):
            for epoch in range(1, epochs + 1):
                losses = [self._step(optimizer, *batch) for batch in self._batches(images)]
                mean = torch.stack(losses).mean()
                require_finite({"loss": mean}, where=f"In epoch {epoch} on auxiliary data the losses are")
                logger.info("Epoch %d of %d on auxiliary data: loss %.4f.", epoch, epochs, mean)
                scheduler.step()
        self.model.eval()
        self.model.has_learned.fill_(value=True)

    def remark(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> str:
        """Let a row say that learning started from random weights, if it did."""
        del auxiliary
        return "" if self.hparams["pre_trained"] else "random weights"

    def _batches(self, images: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield queries and their support images, a category at a time, in random order."""
        size = self.hparams["batch_size"]
        shuffled = [(each, part) for each in images for part in torch.randperm(len(each)).split(size)]
        for place in torch.randperm(len(shuffled)).tolist():
            category, queries = shuffled[place]
            others = torch.randint(1, len(category), (len(queries), self.hparams["k_shot"]))
            support = (queries.unsqueeze(1) + others) % len(category)  # any but the query itself
            yield category[queries], category[support]

    def _step(self, optimizer: torch.optim.Optimizer, queries: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
        """Take a step of the optimizer, and return its loss."""
        optimizer.zero_grad()
        loss = self.model.loss(*(each.to(self.device).float() / 255 for each in (queries, support)))
        loss.backward()
        optimizer.step()
        return loss.detach()

    def on_train_epoch_start(self) -> None:
        """Forget the shots of an earlier pass; the network stays as it was learned, its batch norm too."""
        super().on_train_epoch_start()
        self.model.eval()


def _images_of(dataset: AnomalibDataset) -> torch.Tensor:
    """Return all images of a data set as bytes, shape ``(N, 3, h, w)``."""
    return torch.stack([(images_of(dataset[index]) * 255).round().byte() for index in range(len(dataset))])
