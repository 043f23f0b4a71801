# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A memory of the second backbone's features, which are compared by their spread."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .memory_bank import MemoryBank


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
        bank.set_places(self.places.chunk(parts)[number])
        return bank

    def set_places(self, places: torch.Tensor) -> None:
        """Set the places of an image's patches, of all its tiles, as shares of its sides: shape ``(n, 2)``."""
        self.places = places.to(self.places)

    def _prepare(self, features: torch.Tensor) -> torch.Tensor:
        """Append the places to features, as they are stored and compared."""
        unit = (self.position_weight * self.variance).sqrt()
        places = (unit * self.places).repeat(features.shape[-2] // len(self.places), 1).to(features)
        return torch.cat([features, places.expand(*features.shape[:-1], 2)], dim=-1)


def _closeness(queries: torch.Tensor, bank: Sequence[torch.Tensor], offsets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the largest ``<q, r> - |r|^2 / 2`` over the rows r, shape ``(Q,)``."""
    values = [F.linear(queries, rows, offset).amax(dim=-1) for rows, offset in zip(bank, offsets, strict=True)]
    return torch.stack(values).amax(dim=0)
