# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Memories of the second backbone's features: by their spread, by the directions in which normal patches differ.

And an image that is compared with itself, by the measure of such a memory.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .memory_bank import MemoryBank

_APART = 0.15  # of the image's side: a patch nearer than that has seen the same pixels
_QUERIES = 1024  # compared at once, which bounds the memory of an image of many tiles


class ScaledMemoryBank(MemoryBank):
    """Patch features of the second backbone, queried by the nearest Euclidean distance.

    A distance is measured by the spread of the bank itself, so that it can be added to other maps:
    ``E = min(1, d^2 / 4v)``, where v is the mean squared distance of the rows from their mean. Two random rows are
    ``d^2 = 2v`` apart on average.

    A patch far away in the image counts as farther: ``d^2`` grows by ``lambda v`` for every squared side of the image.
    This is the distance of features to which the place is appended as two more numbers.

    Args:
        width: Width of the patch features.
        grid: Height and width of their grid.
        coreset_sampling_ratio: As for :class:`MemoryBank`.
        position_weight: lambda; 0 for features alone.
        per_category: As for :class:`MemoryBank`.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        coreset_sampling_ratio: float = 1.0,
        position_weight: float = 0.0,
        per_category: bool = False,
    ) -> None:
        super().__init__(width + 2, coreset_sampling_ratio, per_category)
        self.position_weight = position_weight
        rows, columns = (torch.arange(length) / length for length in grid)
        places = torch.cartesian_prod(rows, columns)  # (n, 2), row by row
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("variance", torch.ones(()))  # v
        self.places: torch.Tensor
        self.variance: torch.Tensor

    def build(
        self,
        features: torch.Tensor,
        categories: Sequence[int] | None = None,
        inside: torch.Tensor | None = None,
    ) -> None:
        """Replace the bank, and measure its spread, which :meth:`extend` leaves alone.

        Args:
            features: Patch features of normal images, shape ``(..., m * n, width)`` for n places.
            categories: As for :class:`MemoryBank`. The spread is that of all categories together.
            inside: As for :meth:`MemoryBank.build`.
        """
        flat = features.detach().float()
        flat = flat.flatten(end_dim=-2) if inside is None else flat[inside.expand(flat.shape[:-1])]
        self.variance = (flat - flat.mean(dim=0)).square().sum(dim=-1).mean().clamp_min(torch.finfo(flat.dtype).tiny)
        super().build(features, categories, inside)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the scaled squared distance E of every patch to its nearest normal patch.

        Args:
            features: Patch features of query images, shape ``(B, n, width)``.

        Returns:
            Shape ``(B, n)``, values in [0, 1].

        Raises:
            RuntimeError: If the bank is empty.
        """
        return super().forward(features.float()).to(features.dtype)  # squares lose too much in half precision

    def _distances(self, queries: Sequence[torch.Tensor], bank: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the scaled squared distances of all queries to one category, shape ``(B * n,)``."""
        offsets = [-rows.square().sum(dim=-1) / 2 for rows in bank]  # -|r|^2 / 2
        closeness = torch.cat([_closeness(part, bank, offsets) for part in queries])  # <q, r> - |r|^2 / 2
        squares = torch.cat([part.square().sum(dim=-1) for part in queries])
        return ((squares - 2 * closeness) / (4 * self.variance)).clamp(0, 1)  # d^2 / 4v

    def at_part(self, number: int, parts: int) -> "ScaledMemoryBank":
        """Return the same bank for queries at one of equally many places, such as those of a tile."""
        bank = self.twin()
        bank.places = self.places.chunk(parts)[number]
        return bank

    def _prepare(self, features: torch.Tensor) -> torch.Tensor:
        """Append the places to features, as they are stored and compared."""
        unit = (self.position_weight * self.variance).sqrt()
        places = (unit * self.places).repeat(features.shape[-2] // len(self.places), 1).to(features)
        return torch.cat([features, places.expand(*features.shape[:-1], 2)], dim=-1)


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
        """Compute the scaled squared distance ``r^2 / 4v`` of patches ``(..., width)`` to the subspace, 0 or more."""
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


def _closeness(queries: torch.Tensor, bank: Sequence[torch.Tensor], offsets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the largest ``<q, r> - |r|^2 / 2`` over the rows r, shape ``(Q,)``."""
    values = [F.linear(queries, rows, offset).amax(dim=-1) for rows, offset in zip(bank, offsets, strict=True)]
    return torch.stack(values).amax(dim=0)
