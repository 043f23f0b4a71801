# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The visual memory bank R (sections 3.5 and 6.3 of the AnoPLe paper)."""

import torch
from anomalib.models.components.base.dynamic_buffer import DynamicBufferMixin
from torch import nn
from torch.nn import functional as F  # noqa: N812

_CHUNK = 4096  # rows of the bank that are compared at once: bounds the memory of a query


class MemoryBank(DynamicBufferMixin, nn.Module):
    """Patch features of the normal shots, queried by the nearest cosine distance (13).

    Args:
        width: Width of the patch features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.empty(0, width))  # R, shape (N, width)
        self.features: torch.Tensor

    def __len__(self) -> int:
        """Number of patch features in the bank."""
        return self.features.shape[0]

    def build(self, features: torch.Tensor) -> None:
        """Replace the bank.

        Args:
            features: Patch features of normal images, shape ``(..., width)``; normalized here.
        """
        self.features = F.normalize(features.detach().float(), dim=-1).flatten(end_dim=-2)

    def extend(self, features: torch.Tensor) -> None:
        """Add patch features of further normal images.

        Args:
            features: As for :meth:`build`.
        """
        old = self.features
        self.build(features)
        self.features = torch.cat([old, self.features.to(old)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Distance of every patch to its nearest normal patch, equation (13).

        Args:
            features: Patch features F of query images, shape ``(B, n, width)``; normalized here.

        Returns:
            ``min over r in R of (1 - <F, r>) / 2``, shape ``(B, n)``, values in [0, 1].

        Raises:
            RuntimeError: If the bank is empty.
        """
        queries, bank = self._prepare(features)
        similarities = [(queries @ rows.T).amax(dim=-1) for rows in bank.split(_CHUNK)]
        return (0.5 * (1 - torch.stack(similarities).amax(dim=0))).clamp(0, 1)

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """The normal patch that is nearest to every patch: the ``r`` of equation (13).

        Args:
            features: As for :meth:`forward`.

        Returns:
            Rows of :attr:`features`, shape ``(B, n)``, dtype long.

        Raises:
            RuntimeError: If the bank is empty.
        """
        queries, bank = self._prepare(features)
        values, rows = zip(*((queries @ part.T).max(dim=-1) for part in bank.split(_CHUNK)), strict=True)
        best = torch.stack(values).argmax(dim=0, keepdim=True)  # (1, B, n), the part of the bank
        return (torch.stack(rows).gather(0, best) + _CHUNK * best).squeeze(0)

    def _prepare(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalized queries, and the bank in their precision."""
        if len(self) == 0:
            msg = "The memory bank is empty: train the model or load a checkpoint of a trained one first."
            raise RuntimeError(msg)
        queries = F.normalize(features, dim=-1)
        return queries, self.features.to(queries.dtype)
