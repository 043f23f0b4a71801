# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of RegAD: features that are registered to each other, and a Gaussian of the shots at every place.

Paper: Huang, Guan, Jiang, Zhang, Spratling, Wang: "Registration based Few-Shot Anomaly Detection", ECCV 2022,
arXiv:2207.07361. The numbers of the equations are this file's own:

(1) ``A = R(angle) diag(s_x, s_y)``: the transform that a spatial transformer estimates from a stage's features; it
    samples them at ``A p``. There is one after each of three stages.
(2) ``D(p, z) = -<p, z> / (|p| |z|)`` at every place, averaged: the negative cosine.
(3) ``L = (D(p_a, sg(z_b)) + D(p_b, sg(z_a))) / 2``: the loss. ``z = E(f)`` and ``p = P(E(f))`` by encoder E and
    predictor P, of the query's features f_a and of the mean f_b of its support images'; sg stops the gradient.
(4) ``f(i, j)``: features of the three stages, each warped back by the inverses of the transforms before it, joined at
    the resolution of the finest.
(5) ``Sigma(i, j) = 1 / (N - 1) sum over n of (f_n - mu)(f_n - mu)^T + 0.01 I`` of the N turned, moved, mirrored and
    gray copies of the shots.
(6) ``M(i, j) = ((f - mu)^T Sigma^-1 (f - mu))^(1/2)``: the map, smoothed; its maximum is the score.
"""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import GaussianBlur2d
from anomalib.models.components.base import DynamicBufferMixin
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import rgb_to_grayscale

from anople_anomalib.backbones.timm_loading import RANDOM, load_features, require_known
from anople_anomalib.baselines.shot_memory import ShotModel

REGULARIZATION = 0.01
_ANGLES = tuple(torch.pi * eighth / 16 for eighth in (-4, -3, -2, -1, 1, 2, 3, 4))
_MOVES = tuple((x, y) for step in (0.2, 0.1) for x in (step, -step) for y in (step, -step))  # halves of an image
_HIDDEN, _NARROW, _LINEAR = 64, 16, 1024  # widths of a localization network


class SpatialTransformer(nn.Module):
    """Spatial transformer of rotation and two scales: it estimates (1) from features, and samples them by it.

    Args:
        width: Number of channels.
        size: Height and width of the features.
    """

    def __init__(self, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(width, _HIDDEN, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(_HIDDEN, _NARROW, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(_NARROW * -(-size[0] // 4) * -(-size[1] // 4), _LINEAR),
            nn.ReLU(),
        )
        self.last = nn.Linear(_LINEAR, 3)
        nn.init.zeros_(self.last.weight)
        self.last.bias = nn.Parameter(torch.tensor([0.0, 1.0, 1.0]))  # the identity

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform features.

        Args:
            features: Shape ``(B, C, H, W)``.

        Returns:
            The features, of the same shape, and the inverse of A, shape ``(B, 2, 2)``.
        """
        angle, *scales = self.last(self.localization(features)).unbind(dim=1)
        transform, inverse = matrices(angle, *scales)
        return warp(features, transform), inverse


def matrices(angle: torch.Tensor, width: torch.Tensor, height: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (1) and its inverse, shape ``(B, 2, 2)``, of angles (radians) and scales of shape ``(B,)``."""
    sine, cosine = angle.sin(), angle.cos()
    transform = [cosine * width, -sine * height, sine * width, cosine * height]
    inverse = [cosine / width, sine / width, -sine / height, cosine / height]
    first, second = (torch.stack(entries, dim=1).reshape(-1, 2, 2) for entries in (transform, inverse))
    return first, second


def warp(images: torch.Tensor, transform: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """Sample images or features at the places that a transform leads to, mirrored at their border.

    Args:
        images: Shape ``(B, C, H, W)``.
        transform: Shape ``(B, 2, 2)``, on coordinates x and y from -1 to 1.
        offset: Added to the places, shape ``(B, 2)``; ``None`` for none.

    Returns:
        Shape ``(B, C, H, W)``.
    """
    height, width = images.shape[-2:]
    centers = [(2 * torch.arange(side, device=images.device) + 1) / side - 1 for side in (height, width)]
    y, x = torch.meshgrid(*centers, indexing="ij")
    places = torch.stack([x, y], dim=-1).reshape(1, -1, 2) @ transform.transpose(1, 2)  # (B, H * W, 2)
    places = places if offset is None else places + offset.unsqueeze(1)
    grid = places.unflatten(1, (height, width))
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Return 22 copies of square shots: themselves, 8 rotations, 8 shifts, mirrored, gray, and 3 quarter turns.

    Shape ``(B, 3, h, h)`` becomes ``(B, 22, 3, h, h)``.
    """
    moves = [(angle, 0.0, 0.0) for angle in _ANGLES] + [(0.0, x, y) for x, y in _MOVES]
    copies = [images]
    for angle, x, y in moves:
        transform, _ = matrices(*images.new_tensor([[angle], [1.0], [1.0]]))
        offset = images.new_tensor([[x, y]])
        copies.append(warp(images, transform.expand(len(images), 2, 2), offset.expand(len(images), 2)))
    copies += [images.flip(-1), rgb_to_grayscale(images, num_output_channels=3)]
    copies += [images.rot90(turns, (-2, -1)) for turns in (1, 2, 3)]
    return torch.stack(copies, dim=1)


def stages_of(backbone: str, pre_trained: bool) -> nn.ModuleList:
    """Return the stages of a ResNet of timm, or of ``"efficientnet-lite0"``, that end at the strides 4, 8 and 16.

    Raises:
        ValueError: If it is neither a ResNet nor an EfficientNet.
        FileNotFoundError: If the weights are not there.
    """
    require_known(backbone, "backbone")
    parts = dict(load_features(backbone, range(4), None if pre_trained else RANDOM, "backbone").named_children())
    network = dict(parts.get("model", nn.Module()).named_children())
    if "layer3" in network:
        stem = [network[name] for name in ("conv1", "bn1", "act1", "maxpool", "layer1")]
        return nn.ModuleList([nn.Sequential(*stem), network["layer2"], network["layer3"]])
    blocks = network.get("blocks")
    if "conv_stem" not in network or not isinstance(blocks, nn.Sequential):
        msg = f"backbone must be a ResNet or an EfficientNet ('resnet18', 'efficientnet-lite0'), got {backbone!r}."
        raise ValueError(msg)
    return nn.ModuleList([nn.Sequential(network["conv_stem"], network["bn1"], *blocks[:2]), blocks[2:3], blocks[3:5]])


def projector(width: int, convolutions: int) -> nn.Sequential:
    """Return 1x1 convolutions of one width, batch norm and ReLU between them: encoder (three) and predictor (two)."""
    layers: list[nn.Module] = []
    for _ in range(convolutions - 1):
        layers += [nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def negative_cosine(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute (2) with a stopped gradient of the target; both of shape ``(B, C, H, W)``, in [-1, 1]."""
    return -F.cosine_similarity(predicted, target.detach(), dim=1).mean()


class RegADModel(DynamicBufferMixin, ShotModel):
    """RegAD: registered features, learned on other categories, and Gaussians of the features of the shots.

    Args:
        stages: Three stages of a backbone, of :func:`stages_of`.
        image_size: Side of the square images, in pixels.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels.
    """

    def __init__(self, stages: nn.ModuleList, image_size: int = 224, sigma: float = 4.0) -> None:
        super().__init__()
        self.stages = stages
        with torch.no_grad():
            maps = [torch.zeros(1, 3, image_size, image_size)]
            for stage in stages.eval():
                maps.append(stage(maps[-1]))
        shapes = [(each.shape[1], (each.shape[2], each.shape[3])) for each in maps[1:]]
        self.transformers = nn.ModuleList(SpatialTransformer(width, size) for width, size in shapes)
        self.encoder, self.predictor = projector(shapes[-1][0], 3), projector(shapes[-1][0], 2)
        self.blur = GaussianBlur2d(sigma=sigma) if sigma else nn.Identity()
        width, places = sum(width for width, _ in shapes), shapes[0][1][0] * shapes[0][1][1]
        self.register_buffer("mean", torch.zeros(places, width))  # mu, (P, C)
        self.register_buffer("factor", torch.zeros(places, 0, width))  # W, (P, N, C)
        self.register_buffer("has_learned", torch.tensor(data=False))
        self.mean: torch.Tensor
        self.factor: torch.Tensor
        self.has_learned: torch.Tensor

    def stage_maps(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Compute the registered features of the stages.

        Args:
            images: Shape ``(B, 3, h, h)``, values in [0, 1].

        Returns:
            Maps of the three stages, from fine to coarse, and the inverses of their transforms.
        """
        maps, inverses = [], []
        for stage, transformer in zip(self.stages, self.transformers, strict=True):
            images, inverse = transformer(stage(images))
            maps.append(images)
            inverses.append(inverse)
        return maps, inverses

    def loss(self, queries: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
        """Compute the loss (3).

        Args:
            queries: Images of a category, shape ``(B, 3, h, h)``.
            support: Images of the same category for each of them, shape ``(B, k, 3, h, h)``.

        Returns:
            A number in [-1, 1].
        """
        maps, _ = self.stage_maps(torch.cat([queries, support.flatten(0, 1)]))
        query, others = maps[-1].split([len(queries), len(maps[-1]) - len(queries)])
        encoded = [self.encoder(query), self.encoder(others.unflatten(0, support.shape[:2]).mean(dim=1))]
        first, second = (self.predictor(each) for each in encoded)
        return (negative_cosine(first, encoded[1]) + negative_cosine(second, encoded[0])) / 2

    def joined(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features (4) of images of shape ``(B, 3, h, h)``; shape ``(B, P, C)``."""
        maps, inverses = self.stage_maps(images)
        fine = []
        for number, features in enumerate(maps):
            for inverse in reversed(inverses[: number + 1]):
                features = warp(features, inverse)
            fine.append(F.interpolate(features, maps[0].shape[-2:], mode="nearest"))
        return torch.cat(fine, dim=1).flatten(2).transpose(1, 2)

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the features of the 22 copies of each of the shots, shape ``(B, 22, P, C)``."""
        copies = augmented(images)
        return (self.joined(copies.flatten(0, 1)).unflatten(0, copies.shape[:2]),)

    def fit(self, features: Sequence[torch.Tensor]) -> None:
        """Fit the Gaussians (5).

        A covariance of all channels at every place would take gigabytes. With the centered features ``U = (f_n - mu) /
        sqrt(N - 1)``, as rows, and ``U U^T = A diag(s) A^T``, the matrix identity of Woodbury gives the same distance:
        ``(|x|^2 - |W x|^2) / 0.01`` with ``W = diag(s + 0.01)^(-1/2) A^T U``, of N rows.

        Args:
            features: Those of all shots, shape ``(k, 22, P, C)``.
        """
        rows = features[0].flatten(0, 1).transpose(0, 1)  # (P, N, C)
        self.mean = rows.mean(dim=1)
        centered = (rows - self.mean.unsqueeze(1)) / (rows.shape[1] - 1) ** 0.5
        values, vectors = torch.linalg.eigh(centered @ centered.transpose(1, 2))
        scaled = vectors / (values.clamp_min(0) + REGULARIZATION).sqrt().unsqueeze(1)
        self.factor = scaled.transpose(1, 2) @ centered

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images and their pixels.

        Args:
            images: Shape ``(B, 3, h, h)``, values in [0, 1].

        Returns:
            ``pred_score`` of shape ``(B, 1)`` and ``anomaly_map`` (6) of shape ``(B, 1, h, h)``, 0 or more.

        Raises:
            RuntimeError: If there are no shots.
        """
        self.require_shots()
        offset = self.joined(images) - self.mean  # (B, P, C)
        projected = torch.einsum("pnc,bpc->bpn", self.factor, offset)
        squares = (offset.square().sum(dim=-1) - projected.square().sum(dim=-1)) / REGULARIZATION
        side = int(self.mean.shape[0] ** 0.5)
        grid = squares.clamp_min(0).sqrt().reshape(-1, 1, side, side)
        anomaly_map = self.blur(F.interpolate(grid, images.shape[-2:], mode="bilinear"))
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(2, 3)), anomaly_map=anomaly_map)
