# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How much the patches of one good image differ among themselves: all that a single shot tells of other good parts."""

import torch

from .memory_bank import MemoryBank, ScaledMemoryBank
from .subspace import SubspaceMemoryBank

_APART = 0.15  # of the image's side: a patch nearer than that has seen the same pixels
_QUERIES = 1024  # compared at once, which bounds the memory of an image of many tiles


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
