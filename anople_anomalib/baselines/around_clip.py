# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the baselines around a frozen CLIP share: layers' memories, texts of both states, and hooks."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import ceil, cos, pi
from typing import cast

import torch
from anomalib.models.image.winclip.prompting import create_prompt_ensemble
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.backbones.clip_loading import Backbone, get_tokenizer
from anople_anomalib.backbones.outputs import VisualFeatures
from anople_anomalib.data.dataset_checks import class_names_of
from anople_anomalib.deployment.components import DefaultComponents, exact_pre_processor
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.prompt_templates import clean_class_names, words_of_categories
from anople_anomalib.method.state_checks import require_finite
from anople_anomalib.utils.batches import datamodule_of
from anople_anomalib.utils.transforms import is_size, resize_exactly, transform_of

from .shot_memory import ShotMemory, ShotModel
from .transfer import AuxiliaryLearner

logger = logging.getLogger(__name__)
_WARM_UP = 0.1  # share of the steps


class LayeredMemory(nn.ModuleList):
    """A memory bank for each of several layers.

    Args:
        width: Width d of the patch features.
        number: Number of layers.
    """

    def __init__(self, width: int, number: int) -> None:
        super().__init__([MemoryBank(width) for _ in range(number)])

    def build(self, features: Sequence[torch.Tensor]) -> None:
        """Fill the banks from the patch features of all shots, one tensor per layer, shape ``(N, n, d)`` each."""
        for bank, layer in zip(self, features, strict=True):
            cast("MemoryBank", bank).build(layer)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute how far patches are from the shots'.

        Args:
            features: Patch features F_l of every layer l, shape ``(B, n, d)`` each.

        Returns:
            The mean over the layers of ``min over r in R_l of (1 - <F_l, r>) / 2``, shape ``(B, n)``, values in [0, 1].
        """
        return torch.stack([bank(layer) for bank, layer in zip(self, features, strict=True)]).mean(dim=0)


class AroundClip(ShotMemory):
    """Hooks of a model around a frozen CLIP, whose texts are made of the categories before a training run."""

    configure_pre_processor = staticmethod(DefaultComponents.configure_pre_processor)  # type: ignore[assignment]  # CLIP's

    @classmethod
    def pre_processor_around(cls, backbone: Backbone, given: nn.Module | bool) -> nn.Module | bool:
        """Return the pre-processor for a CLIP: the default for ``True``; else the user's, checked and made exact."""
        if given is True:
            given = cls.configure_pre_processor(backbone.clip.visual.image_size, backbone.mean, backbone.std)
        return exact_pre_processor(given)

    def setup(self, stage: str) -> None:
        """Write the texts before a training run."""
        if stage == "fit":
            self.prepare_texts(self.hparams["class_names"] or class_names_of(datamodule_of(self.trainer)))
        super().setup(stage)

    @abstractmethod
    def prepare_texts(self, categories: str | Sequence[str]) -> None:
        """Set the texts of one category or several; known ones become words.

        Raises:
            ValueError: If there is no name, or a name is empty.
        """


class ClipModel(ShotModel):
    """A torch model over patch features of some of CLIP's layers, of which the shots make a memory.

    Texts and memory are buffers: the text tower never runs when images are judged.

    Args:
        clip: The frozen CLIP.
        layers: 1-based numbers of the layers; empty for no memory.
    """

    def __init__(self, clip: FrozenCLIP, layers: Sequence[int]) -> None:
        super().__init__()
        self.clip, self.layers = clip, tuple(layers)
        self.memory_banks = LayeredMemory(clip.visual.width, len(self.layers))  # R of each layer
        self.register_buffer("backbone_fingerprint", torch.tensor(list(clip.fingerprint), dtype=torch.uint8))

    def fit(self, features: Sequence[torch.Tensor]) -> None:
        """Fill the memory from the patch features of all shots, one tensor per layer, shape ``(N, n, d_v)`` each."""
        self.memory_banks.build(features)

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        """Resize images of shape ``(B, 3, h, w)`` to CLIP's size."""
        size = self.clip.visual.image_size
        return images if is_size(images.shape[-2:], size) else resize_exactly(images, size)

    def on_grid(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of patches, shape ``(B, n)``, as a map of shape ``(B, 1, h', w')``."""
        height, width = self.clip.visual.grid
        return rearrange(values, "b (h w) -> b 1 h w", h=height, w=width)


class EnsembleModel(ClipModel):
    """Such a model with the texts of both states, which learns from other data."""

    def __init__(self, clip: FrozenCLIP, layers: Sequence[int]) -> None:
        super().__init__(clip, layers)
        self.register_buffer("text_features", torch.zeros(2, clip.embed_dim))  # (w^n, w^a)
        self.register_buffer("has_learned", torch.tensor(data=False))
        self.text_features: torch.Tensor
        self.has_learned: torch.Tensor

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> VisualFeatures:
        """Encode normalized images ``(B, 3, h, w)``, resized to CLIP's size; the towers are frozen: no gradients."""
        return self.clip.visual(self.resized(images), layers=self.layers)


class EnsembleLearner(AuxiliaryLearner, AroundClip):
    """Hooks of an :class:`EnsembleModel`."""

    model: EnsembleModel

    def prepare_texts(self, categories: str | Sequence[str]) -> None:
        """Compute the texts of both states, see the base class."""
        self.model.text_features = self.texts_of(categories)

    def texts_of(self, categories: str | Sequence[str]) -> torch.Tensor:
        """Compute the texts of both states, see :func:`ensemble_features`."""
        return ensemble_features(self.model.clip, get_tokenizer(self.hparams["backbone"]), categories)

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """Pre-process images of shape ``(B, 3, h, w)``, values in [0, 1], as at the test, on the model's device."""
        transform, images = transform_of(self.pre_processor), images.to(self.device)
        return images if transform is None else transform(images)

    def learn(self, epoch: Callable[[], Iterable[Mapping[str, torch.Tensor]]], steps: int | None = None) -> None:
        """Train the model on the losses of steps, in as many epochs as its hyper-parameters say.

        Args:
            epoch: Function that computes the losses of an epoch's steps, one after the other.
            steps: Number of steps of an epoch for a rate with a warm-up and a cosine; ``None`` for a constant one.

        Raises:
            FloatingPointError: If the losses are not finite.
        """
        lr, epochs = self.hparams["lr"], self.hparams["epochs"]
        optimizer = torch.optim.AdamW([each for each in self.model.parameters() if each.requires_grad], lr=lr)
        schedule = None
        if steps is not None:
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=steps * epochs))
        for number in range(1, epochs + 1):
            for losses in epoch():
                require_finite(losses, where=f"In epoch {number} on the auxiliary data the losses are")
                optimizer.zero_grad()
                torch.stack(list(losses.values())).sum().backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()
            logger.info("Auxiliary data: epoch %d of %d", number, epochs)
        self.model.has_learned.fill_(value=True)


def resized_map(grid: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Resize a map to the size of the images."""
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate in a step: a line up, then a cosine down to 0."""
    first = ceil(_WARM_UP * steps)
    return (step + 1) / first if step < first else (1 + cos(pi * (step - first) / max(1, steps - first))) / 2


@torch.no_grad()
def ensemble_features(
    clip: FrozenCLIP, tokenize: Callable[[list[str]], torch.Tensor], categories: str | Sequence[str]
) -> torch.Tensor:
    """Encode both states by WinCLIP's compositional ensemble: every state of a part in every template of a photograph.

    Args:
        clip: The frozen CLIP.
        tokenize: Its tokenizer.
        categories: One category or several, over whose texts the mean is taken.

    Returns:
        Texts of the normal and of the abnormal state: the means of their embeddings of length 1, made of length 1,
        shape ``(2, embed_dim)``.
    """
    device = clip.logit_scale.device
    states: tuple[list[str], list[str]] = ([], [])
    for name in clean_class_names(words_of_categories(categories)):
        for state, texts in zip(states, create_prompt_ensemble(name), strict=True):
            state.extend(texts)
    means = [F.normalize(clip.text(tokenize(texts).to(device)), dim=-1).mean(dim=0) for texts in states]
    return F.normalize(torch.stack(means), dim=-1).float()


def abnormal_probability(
    features: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """Compute how much features are those of the abnormal state, by their cosines with the texts of both.

    Args:
        features: Of length 1, shape ``(..., n, D)``.
        texts: Of the normal and the abnormal state, of length 1, shape ``(2, D)``, or ``(..., 2, D)`` for texts of
            their own.
        logit_scale: 1 / tau.

    Returns:
        The second value of ``softmax(<z, w^n> / tau, <z, w^a> / tau)``, shape ``(..., n)``, values in [0, 1].
    """
    return (logit_scale * features @ texts.to(features.dtype).mT).softmax(dim=-1)[..., 1]
