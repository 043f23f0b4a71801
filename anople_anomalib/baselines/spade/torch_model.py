# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of SPADE: nearest images, and pixel correspondences between them and the query.

Paper: Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences", arXiv:2005.02357. The numbers
of the equations are this file's own:

(1) ``d(y) = 1/K sum over f in N_K(f_y) of |f - f_y|^2``: the score of an image. ``f`` is the average over all places of
    the last stage's features, ``N_K`` the K nearest of the normal images.
(2) ``d(y, p) = 1/kappa sum over f in N_kappa(F(y, p)) of |f - F(y, p)|^2``: the score of a pixel. ``F(y, p)`` are the
    features of the earlier stages at that place, concatenated at the resolution of the finest, and the neighbors are
    looked for at all places of the K nearest images: the gallery G.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import GaussianBlur2d
from anomalib.models.components.base import DynamicBufferMixin
from torch import nn
from torch.nn import functional as F

from anople_anomalib.baselines.shot_memory import FeaturePyramid, ShotModel

_QUERIES = 256  # pixels that are compared with all pixels of a shot at once


class Features(NamedTuple):
    """Features of images that SPADE compares."""

    image: torch.Tensor  # f, shape ``(B, D)``
    pixels: torch.Tensor  # F, shape ``(B, H * W, C)`` at the resolution H x W of the finest stage


class SPADEModel(DynamicBufferMixin, ShotModel):
    """SPADE: features of the shots, and the distances of a query to them.

    Args:
        pyramid: The backbone; of its maps, from fine to coarse, the last makes f, the others F.
        num_images: K, at most; there may be fewer shots.
        num_pixels: kappa.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels of the image.
    """

    def __init__(self, pyramid: FeaturePyramid, num_images: int = 50, num_pixels: int = 1, sigma: float = 4.0) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.num_images, self.num_pixels = num_images, num_pixels
        self.blur = GaussianBlur2d(sigma=sigma) if sigma else nn.Identity()
        self.register_buffer("image_features", torch.empty(0, pyramid.widths[-1]))  # f of the shots, (N, D)
        self.register_buffer("pixel_features", torch.empty(0, 0, sum(pyramid.widths[:-1])))  # F, (N, H * W, C)
        self.image_features: torch.Tensor
        self.pixel_features: torch.Tensor

    def features(self, images: torch.Tensor) -> Features:
        """Compute f and F.

        Args:
            images: Normalized images, shape ``(B, 3, h, w)``.

        Returns:
            The features.
        """
        return self._features(self.pyramid(images))

    @staticmethod
    def _features(maps: Sequence[torch.Tensor]) -> Features:
        """Return f and F of maps from fine to coarse."""
        *fine, last = maps
        return Features(last.mean(dim=(2, 3)), FeaturePyramid.joined(fine).flatten(2).transpose(1, 2))

    def fit(self, features: Sequence[torch.Tensor]) -> None:
        """Keep the features of the shots.

        Args:
            features: f and F of all shots.
        """
        self.image_features, self.pixel_features = features

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images and their pixels.

        Args:
            images: Normalized images, shape ``(B, 3, h, w)``.

        Returns:
            ``pred_score`` (1) of shape ``(B, 1)`` and ``anomaly_map`` (2), smoothed, of shape ``(B, 1, h, w)``; squared
            distances, 0 or more.

        Raises:
            RuntimeError: If there are no shots.
        """
        self.require_shots()
        maps = self.pyramid(images)
        features = self._features(maps)
        scores, nearest = self.nearest_images(features.image)
        if torch.compiler.is_compiling():  # the number of images is unknown when a model is exported
            distances = self.pixel_distances(features.pixels, nearest)
        else:  # one image at a time: the distances of two images' pixels take megabytes
            pairs = zip(features.pixels.split(1), nearest.split(1), strict=True)
            distances = torch.cat([self.pixel_distances(*pair) for pair in pairs])
        grid = distances.reshape(-1, 1, *maps[0].shape[-2:])
        anomaly_map = F.interpolate(grid, size=images.shape[-2:], mode="bilinear")
        return InferenceBatch(pred_score=scores.unsqueeze(1), anomaly_map=self.blur(anomaly_map))

    def nearest_images(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the K nearest shots, equation (1).

        Args:
            query: f of the images, shape ``(B, D)``.

        Returns:
            d(y), shape ``(B,)``, and the numbers of the shots, shape ``(B, K)``.
        """
        number = min(self.num_images, len(self.image_features))
        squares, nearest = squared_distances(query, self.image_features).topk(number, dim=1, largest=False)
        return squares.mean(dim=1), nearest

    def pixel_distances(self, query: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        """Find the kappa nearest pixels of the nearest shots, equation (2).

        Args:
            query: F of the images, shape ``(B, P, C)``.
            nearest: Numbers of their nearest shots, shape ``(B, K)``.

        Returns:
            d(y, p), shape ``(B, P)``.
        """
        closest = [
            self._closest(query, self.pixel_features[column])  # (B, P, kappa), squared distances
            for column in nearest.unbind(dim=1)
        ]
        everything = torch.cat(closest, dim=-1)  # (B, P, K * kappa)
        return _smallest(everything, self.num_pixels).mean(dim=-1)

    def _closest(self, query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Find the kappa nearest pixels of one shot per image, a block of the queries at a time.

        Args:
            query: F of the images, shape ``(B, P, C)``.
            gallery: F of a shot for each of them, shape ``(B, P, C)``.

        Returns:
            Squared distances, shape ``(B, P, kappa)``, 0 or more.
        """
        squares = gallery.square().sum(dim=-1).unsqueeze(-2)  # (B, 1, P)
        scaled = -2 * gallery.transpose(-1, -2)
        # |g|^2 - 2 <q, g> is smallest where the distance is; a block fits into a processor's cache
        blocks = [query] if torch.compiler.is_compiling() else query.split(_QUERIES, dim=1)
        smallest = torch.cat([_smallest(squares + block @ scaled, self.num_pixels) for block in blocks], dim=1)
        return (smallest + query.square().sum(dim=-1, keepdim=True)).clamp_min(0)


def _smallest(values: torch.Tensor, number: int) -> torch.Tensor:
    """Return the smallest values of the last axis, as many as there are, shape ``(..., number)``."""
    if number == 1:  # several times as fast as topk
        return values.amin(dim=-1, keepdim=True)
    return values.topk(min(number, values.shape[-1]), dim=-1, largest=False).values


def squared_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute squared distances of rows ``(..., n, C)`` and ``(..., m, C)``: ``(..., n, m)``, 0 or more."""
    squares = first.square().sum(dim=-1, keepdim=True) + second.square().sum(dim=-1).unsqueeze(-2)
    return (squares - 2 * first @ second.transpose(-1, -2)).clamp_min(0)
