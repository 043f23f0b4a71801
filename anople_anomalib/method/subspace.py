# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How normal patches differ: a memory that knows in which directions (PCA), and an image compared with itself."""

from collections.abc import Sequence

import torch

from .memory_bank import MemoryBank, ScaledMemoryBank

_APART = 0.15  # of the image's side: a patch nearer than that has seen the same pixels
_QUERIES = 1024  # compared at once, which bounds the memory of an image of many tiles


class SubspaceMemoryBank(ScaledMemoryBank):
    """Patch features, queried by the distance to the nearest row and by that to the subspace of all rows.

    The principal directions of the rows that explain most of their variance are those in which normal patches differ
    from each other: how far a patch goes there says less than how far it goes elsewhere. So one factor of the squared
    distance d to the nearest row is replaced by the distance r to the subspace through the rows' mean:
    ``E = min(1, d r / 4v)``, where :class:`.ScaledMemoryBank` has ``d^2 / 4v``. What is in the bank stays at 0.

    Args:
        width: Width of the patch features.
        grid: Height and width of their grid.
        coreset_sampling_ratio: As for :class:`.MemoryBank`; the subspace is that of the rows that are kept.
        position_weight: As for :class:`.ScaledMemoryBank`; the places do not count for the subspace.
        per_category: As for :class:`.MemoryBank`; the subspace is that of all categories together.
        share: Share of the variance of the rows that the subspace explains, in (0, 1).
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        coreset_sampling_ratio: float = 1.0,
        position_weight: float = 0.0,
        per_category: bool = False,
        share: float = 0.95,
    ) -> None:
        super().__init__(width, grid, coreset_sampling_ratio, position_weight, per_category)
        self.share = share
        self.register_buffer("center", torch.zeros(width))  # mean of the rows
        self.register_buffer("outside", torch.empty(0, width))  # orthonormal directions off the subspace, (m, width)
        self.center: torch.Tensor
        self.outside: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the scaled distance E of every patch.

        Args:
            features: Patch features of query images, shape ``(B, n, width)``.

        Returns:
            Shape ``(B, n)``, values in [0, 1].

        Raises:
            RuntimeError: If the bank is empty.
        """
        near = super().forward(features.float())  # d^2 / 4v
        return (near * self.away(features.float())).sqrt().clamp(max=1).to(features.dtype)

    def away(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the squared distance of every patch to the subspace, scaled as the other: ``r^2 / 4v``.

        Args:
            features: Patch features, shape ``(..., width)``.

        Returns:
            Shape ``(...)``, at least 0.
        """
        residual = (features - self.center.to(features)) @ self.outside.to(features).T  # (..., m)
        return residual.square().sum(dim=-1) / (4 * self.variance.to(features))

    def parts(self) -> Sequence[torch.Tensor]:
        """Return what queries are multiplied by: the parts of the bank, and the directions off the subspace."""
        return [*super().parts(), self.outside]

    def _keep(self, groups: Sequence[torch.Tensor]) -> None:
        """Set the bank to what the categories hold, and find the subspace of it."""
        super()._keep(groups)
        rows = torch.cat(list(groups))[:, : len(self.center)]  # without their places
        self.center = rows.mean(dim=0)
        covariance = torch.cov(rows.T, correction=0).reshape(rows.shape[1], rows.shape[1])
        values, directions = torch.linalg.eigh(covariance.double().cpu())  # from the smallest on
        explained = values.clamp_min(0).cumsum(dim=0)
        is_outside = explained <= (1 - self.share) * explained[-1]
        self.outside = directions.T[is_outside].to(rows)


class OwnPatches(MemoryBank):
    """A bank that holds nothing: it compares the patches of an image with those at other places of the same image.

    Distances are measured as another bank measures them, but that a patch at another place is no farther for that:
    ``d^2 / 4v`` is the smallest over the patches whose place differs by at least 0.15 of the image's side, in rows or
    in columns.

    Args:
        bank: The bank, filled, whose spread (and subspace) is the measure.
    """

    def __init__(self, bank: ScaledMemoryBank) -> None:
        super().__init__(bank.places.shape[1])
        self._bank = bank

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the distance of every patch to the nearest elsewhere in its image.

        Args:
            features: Patch features, shape ``(B, n, width)`` for the n places of the bank.

        Returns:
            Shape ``(B, n)``, values in [0, 1]; 1 where no patch is far enough away.
        """
        patches, places = features.float(), self._bank.places
        blocks = zip(patches.split(_QUERIES, dim=1), places.split(_QUERIES), strict=True)
        near = torch.cat([self._nearest_elsewhere(*block, patches) for block in blocks], dim=1)
        if isinstance(self._bank, SubspaceMemoryBank):
            near = (near * self._bank.away(patches)).sqrt()
        return near.clamp(max=1).to(features.dtype)

    def _nearest_elsewhere(self, queries: torch.Tensor, at: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Return ``d^2 / 4v`` of queries of shape ``(B, q, width)`` at places ``(q, 2)``, shape ``(B, q)``."""
        same = torch.cdist(at, self._bank.places, p=torch.inf) < _APART
        squares = torch.cdist(queries, patches).square() / (4 * self._bank.variance)
        return squares.masked_fill(same, torch.inf).amin(dim=-1)
