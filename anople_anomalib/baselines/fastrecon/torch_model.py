# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PyTorch model of FastRecon: the query's features, reconstructed from a coreset of the shots' in closed form.

Paper: Fang et al., "FastRecon: Few-shot Industrial Anomaly Detection via Fast Feature Reconstruction", ICCV 2023. The
numbers of the equations are this file's own. ``Q`` (n, C) are the patch features of a query, ``S`` (m, C) a coreset of
those of the shots, ``mu`` (n, C) their mean at every place:

(1) ``W = argmin |Q - W S|^2 + lambda |W S - mu|^2``: the transformation that is sought, with the regularization by the
    distribution of the normal features.
(2) ``W = (Q S^T + lambda mu S^T) ((1 + lambda) S S^T)^-1``: its closed form.
(3) ``s = |Q - W S|``, row by row: the score of a patch; the largest is that of the image.

``W S`` is the projection of ``(Q + lambda mu) / (1 + lambda)`` on the rows of ``S``. It is computed so, by an
orthonormal basis of these rows: no inverse of a matrix that may be singular, and nothing to invert in an export.
"""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import GaussianBlur2d
from anomalib.models.components.base import DynamicBufferMixin
from torch import nn
from torch.nn import functional as F

from anople_anomalib.baselines.shot_memory import FeaturePyramid, ShotModel
from anople_anomalib.method.coreset import choose_coreset

_RANK_TOLERANCE = 1e-5  # of a singular value beside the largest, below which a direction is rounding


class FastReconModel(DynamicBufferMixin, ShotModel):
    """FastRecon: coreset, mean, and the reconstruction of a query.

    Args:
        pyramid: The backbone, whose maps are averaged over 3x3 neighbors, resized to the finest and concatenated.
        coreset_sampling_ratio: Share of the shots' patch features in S, in (0, 1]; at least one is kept.
        regularization: lambda.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels of the image.
    """

    def __init__(
        self,
        pyramid: FeaturePyramid,
        coreset_sampling_ratio: float = 0.01,
        regularization: float = 2.0,
        sigma: float = 4.0,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.coreset_sampling_ratio, self.regularization = coreset_sampling_ratio, regularization
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.blur = GaussianBlur2d(sigma=sigma) if sigma else nn.Identity()
        self.register_buffer("coreset", torch.empty(0, sum(pyramid.widths)))  # S, (m, C)
        self.register_buffer("basis", torch.empty(0, sum(pyramid.widths)))  # of the rows of S, (rank, C)
        self.register_buffer("mean", torch.empty(0, sum(pyramid.widths)))  # mu, (n, C)
        self.coreset: torch.Tensor
        self.basis: torch.Tensor
        self.mean: torch.Tensor

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        """Compute Q of images of shape ``(B, 3, h, w)``: ``(B, H * W, C)`` at the resolution of the finest stage."""
        return (self._map(images).flatten(2).transpose(1, 2),)

    def _map(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the concatenated features, shape ``(B, C, H, W)``."""
        return self.pyramid.joined([self.pool(features) for features in self.pyramid(images)])

    def fit(self, features: Sequence[torch.Tensor]) -> None:
        """Choose S among the patch features of the shots by k-center-greedy, and compute mu.

        Args:
            features: Q of all shots, shape ``(N, n, C)``.
        """
        (patches,) = features
        self.mean = patches.mean(dim=0)
        self.coreset = choose_coreset(patches.flatten(0, 1), self.coreset_sampling_ratio)
        _, values, directions = torch.linalg.svd(self.coreset, full_matrices=False)
        self.basis = directions[values > _RANK_TOLERANCE * values[0]].contiguous()

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Score images and their pixels.

        Args:
            images: Normalized images, shape ``(B, 3, h, w)`` of the size of the shots.

        Returns:
            ``pred_score``, the largest score of a patch (3), of shape ``(B, 1)``, and ``anomaly_map``, all of them
            resized and smoothed, of shape ``(B, 1, h, w)``; 0 or more.

        Raises:
            RuntimeError: If there are no shots.
        """
        self.require_shots()
        features = self._map(images)  # (B, C, H, W)
        patches = features.flatten(2).transpose(1, 2)
        scores = (patches - self.reconstruct(patches)).square().sum(dim=-1).sqrt()  # (3), (B, n)
        grid = scores.reshape(-1, 1, *features.shape[-2:])
        anomaly_map = F.interpolate(grid, size=images.shape[-2:], mode="bilinear")
        return InferenceBatch(pred_score=scores.amax(dim=1, keepdim=True), anomaly_map=self.blur(anomaly_map))

    def reconstruct(self, patches: torch.Tensor) -> torch.Tensor:
        """Compute ``W S`` with the W of equation (2).

        Args:
            patches: Q, shape ``(B, n, C)``.

        Returns:
            The reconstruction, of the same shape.
        """
        target = (patches + self.regularization * self.mean) / (1 + self.regularization)
        return (target @ self.basis.T) @ self.basis
