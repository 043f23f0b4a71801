# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A second, frozen visual backbone for the memory: any model of timm that tells its intermediate features.

:mod:`.timm_loading` builds the models. Added here are patch features on one grid, and batch normalization
folded into the convolutions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from anople_anomalib.utils.files import first_line
from anople_anomalib.utils.transforms import is_size, resize_exactly

from .frozen import FrozenModule, fingerprint_of
from .package_weights import PACKAGE_WEIGHTS
from .timm_loading import bare_features, feature_layers, load_features, require_known

_IMAGES_PER_THREAD = 2  # that are encoded at once on a CPU
_STRIDES = (8, 16)  # of the stages that make the memory of a convolutional network, as in PatchCore


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
        shift: Summand after that, per channel.
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
        settings = f"{name} {image_size} {list(layers)}"
        self.fingerprint = fingerprint_of(model.state_dict().items(), settings)
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
        self.features.to(memory_format=torch.channels_last)  # a CPU convolves so in half to four fifths of the time
        self.width, self.grid = int(shape[1]), (int(shape[2]), int(shape[3]))
        self.freeze()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images, on a CPU a few at once, whose values its caches hold: in half to two thirds of the time of 32.

        Args:
            images: Images normalized for CLIP, shape ``(B, 3, H, W)``; resized to :attr:`image_size`.

        Returns:
            Patch features in the order of the rows of :attr:`grid`, shape ``(B, n, width)``.
        """
        images = images.to(self.scale.dtype)
        if not is_size(images.shape[-2:], self.image_size):
            images = resize_exactly(images, self.image_size)
        whole = images.device.type != "cpu" or torch.compiler.is_compiling()
        parts = [images] if whole else images.split(_IMAGES_PER_THREAD * torch.get_num_threads())
        maps = torch.cat([self._maps(part * self.scale + self.shift) for part in parts])
        return maps.flatten(2).transpose(1, 2)

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
    config = require_known(name)
    image_size = image_size or own_image_size(name)
    sizes = {"img_size": image_size} if config.fixed_input_size else {}  # a transformer's positions
    indices = _resolve_layers(name, layers, sizes)
    model = load_features(name, indices, weights, sizes=sizes)
    means, stds = torch.tensor(list(mean)), torch.tensor(list(std))
    own_means, own_stds = torch.tensor(config.mean), torch.tensor(config.std)
    scale, shift = stds / own_stds, (means - own_means) / own_stds
    limits = torch.stack([-means / stds, (1 - means) / stds])
    try:
        return MemoryBackbone(model, name, image_size, [index + 1 for index in indices], scale, shift, limits)
    except (RuntimeError, AssertionError) as error:
        msg = f"memory.image_size {image_size} does not fit {name}: {first_line(error)}."
        raise ValueError(msg) from error


class FeatureCost(NamedTuple):
    """What the features of one image cost, counted without computing them."""

    operations: int  # multiplications and additions
    megabytes: float  # largest input and output of a layer together, in float32
    patches: int  # number of patches
    width: int  # width of a patch's features


@cache
def count_features(name: str, layers: tuple[int, ...] | None, image_size: int) -> FeatureCost:
    """Count what the features of an image cost, whatever the weights.

    Args:
        name: As for :func:`load_memory_backbone`.
        layers: As for :func:`load_memory_backbone`.
        image_size: Side of the image.

    Raises:
        ValueError: If the name or the layers do not fit.
    """
    fixed = image_size if require_known(name).fixed_input_size else None
    largest = 0

    def measure(_: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        """Compare a layer's tensors with the largest so far."""
        nonlocal largest
        tensors = [each for each in (*inputs, output) if isinstance(each, torch.Tensor)]
        largest = max(largest, sum(each.nbytes for each in tensors))

    model = _without_values(name, layers, fixed)
    hooks = [module.register_forward_hook(measure) for module in model.modules()]
    with FlopCounterMode(display=False) as counter:
        maps = model(torch.empty(1, 3, image_size, image_size, device="meta"))
    for hook in hooks:
        hook.remove()
    patches = max(features.shape[-2:].numel() for features in maps)
    return FeatureCost(counter.get_total_flops(), largest / 1e6, patches, sum(features.shape[1] for features in maps))


@cache
def _without_values(name: str, layers: tuple[int, ...] | None, image_size: int | None) -> nn.Module:
    """Build a model that has shapes alone; of any size where none is given."""
    indices = _resolve_layers(name, layers, {})
    with torch.device("meta"):
        return bare_features(name, indices, {} if image_size is None else {"img_size": image_size})


def own_image_size(name: str) -> int:
    """Return the side of the images that a backbone sees by default."""
    packaged = PACKAGE_WEIGHTS.get(name)
    return require_known(name).input_size[-1] if packaged is None else packaged.image_size


def fold_batch_norm(model: nn.Module, images: torch.Tensor) -> bool:
    """Fold batch normalizations into the convolutions before them, if that changes nothing; return whether it was done.

    timm's models name a normalization right after the convolution that it follows. Whether this one does is seen from
    its features of some images, as the model, in evaluation mode, takes them.
    """
    expected = [features.detach() for features in model(images)]
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent, first, second, convolution, normalization in list(_neighbors(model)):
        replaced += [(parent, first, convolution), (parent, second, normalization)]
        parent.add_module(first, fuse_conv_bn_eval(convolution, normalization))
        activation = normalization.act if isinstance(normalization, BatchNormAct2d) else nn.Identity()
        parent.add_module(second, activation)
    pairs = zip(model(images), expected, strict=True)
    if all(torch.allclose(one, other, atol=1e-3 * float(other.abs().amax()), rtol=1e-3) for one, other in pairs):
        return bool(replaced)
    for parent, name, module in replaced:
        parent.add_module(name, module)
    return False


def _neighbors(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Conv2d, nn.BatchNorm2d]]:
    """Yield every module with a convolution and the batch normalization after it, and their names."""
    for parent in model.modules():
        for (first, convolution), (second, normalization) in pairwise(parent.named_children()):
            if not isinstance(convolution, nn.Conv2d) or not isinstance(normalization, nn.BatchNorm2d):
                continue
            if convolution.out_channels == normalization.num_features:
                yield parent, first, second, convolution, normalization


def _resolve_layers(name: str, layers: Sequence[int] | None, sizes: Mapping[str, Any]) -> list[int]:
    """Return timm's 0-based numbers of the layers."""
    strides = list(feature_layers(name, sizes=sizes).values())
    if layers is None:
        chosen = [index for index, stride in enumerate(strides) if stride in _STRIDES]
        is_pyramid = len(set(strides)) == len(strides)
        return chosen if is_pyramid and chosen else [len(strides) - 1]
    numbers = sorted(set(layers))
    if not numbers or not all(isinstance(number, int) and 1 <= number <= len(strides) for number in numbers):
        msg = f"memory.backbone_layers must be numbers between 1 and {len(strides)} for {name}, got {list(layers)!r}."
        raise ValueError(msg)
    return [number - 1 for number in numbers]


def _inner(model: nn.Module) -> Iterable[nn.Module]:
    """Return the modules after the first that computes something: a transformer's patches come from a convolution."""
    leaves = [module for module in model.modules() if not list(module.children())]
    return leaves[2:]
