# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The visual memory bank R (sections 3.5 and 6.3 of the AnoPLe paper)."""

from collections.abc import Sequence

import torch
from anomalib.models.components import KCenterGreedy
from anomalib.models.components.base.dynamic_buffer import DynamicBufferMixin
from torch import nn
from torch.nn import functional as F  # noqa: N812

_ROWS, _QUERIES = 4096, 1024  # of the bank, of the images: compared at once, which bounds the memory of a query


class MemoryBank(DynamicBufferMixin, nn.Module):
    """Patch features of the normal shots, queried by the nearest cosine distance (13).

    Args:
        width: Width of the patch features.
        coreset_sampling_ratio: Share of the features that is kept, in (0, 1]: those that k-center-greedy chooses, as
            in PatchCore.

    Raises:
        ValueError: If the ratio is out of range.
    """

    def __init__(self, width: int, coreset_sampling_ratio: float = 1.0) -> None:
        super().__init__()
        if not 0 < coreset_sampling_ratio <= 1:
            msg = f"coreset_sampling_ratio must be above 0 and at most 1, got {coreset_sampling_ratio}."
            raise ValueError(msg)
        self.coreset_sampling_ratio = coreset_sampling_ratio
        self.register_buffer("features", torch.empty(0, width))  # R, shape (N, width)
        self.features: torch.Tensor

    def __len__(self) -> int:
        """Return the number of patch features in the bank."""
        return self.features.shape[0]

    def build(self, features: torch.Tensor) -> None:
        """Replace the bank.

        Args:
            features: Patch features of normal images, shape ``(..., width)``; normalized here.
        """
        features = F.normalize(features.detach().float(), dim=-1).flatten(end_dim=-2)
        self.features = features if self.coreset_sampling_ratio == 1 else self._coreset(features)

    def extend(self, features: torch.Tensor) -> None:
        """Add patch features of further normal images.

        Args:
            features: As for :meth:`build`.
        """
        old = self.features
        self.build(features)
        self.features = torch.cat([old, self.features.to(old)])

    def parts(self) -> Sequence[torch.Tensor]:
        """Split the bank into the parts that are compared at once, ``(m, width)`` each."""
        return self.features.split(_ROWS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the distance of every patch to its nearest normal patch, equation (13).

        Never more than a fixed number of distances exists at a time, whatever the sizes of batch and bank. (An
        exported model is the exception in the number of images, which is unknown when it is made.)

        Args:
            features: Patch features F of query images, shape ``(B, n, width)``; normalized here.

        Returns:
            ``min over r in R of (1 - <F, r>) / 2``, shape ``(B, n)``, values in [0, 1].

        Raises:
            RuntimeError: If the bank is empty.
        """
        queries, bank = self._blocks(features)
        similarities = [torch.stack([(part @ rows.T).amax(dim=-1) for rows in bank]).amax(dim=0) for part in queries]
        return (0.5 * (1 - torch.cat(similarities).reshape(features.shape[:-1]))).clamp(0, 1)

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """Find the normal patch that is nearest to every patch: the ``r`` of equation (13).

        Args:
            features: As for :meth:`forward`.

        Returns:
            Rows of :attr:`features`, shape ``(B, n)``, dtype long.

        Raises:
            RuntimeError: If the bank is empty.
        """
        queries, bank = self._blocks(features)
        return torch.cat([_nearest(part, bank) for part in queries]).reshape(features.shape[:-1])

    def _blocks(self, features: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Return normalized queries, ``(Q, width)`` each, and the bank in their precision, ``(N, width)`` each."""
        if len(self) == 0:
            msg = "The memory bank is empty: train the model or load a checkpoint of a trained one first."
            raise RuntimeError(msg)
        queries = F.normalize(features, dim=-1).flatten(end_dim=-2)  # (B * n, width)
        bank = [part.to(queries.dtype) for part in self.parts()]
        return [queries] if torch.compiler.is_compiling() else queries.split(_QUERIES), bank

    def _coreset(self, features: torch.Tensor) -> torch.Tensor:
        """Choose a share of normalized features of shape ``(N, width)``, the same in every process.

        A third axis makes anomalib's sampler compare the features themselves, without a random projection.
        """
        ratio = max(self.coreset_sampling_ratio, 1.5 / len(features))  # at least one feature
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sampler = KCenterGreedy(features.cpu().unsqueeze(1), sampling_ratio=ratio)
            chosen = sampler.select_coreset_idxs()
        return features[chosen]


def _nearest(queries: torch.Tensor, bank: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the index of the row with the largest cosine, shape ``(Q,)``."""
    values, rows = zip(*((queries @ part.T).max(dim=-1) for part in bank), strict=True)
    best = torch.stack(values).argmax(dim=0, keepdim=True)  # (1, Q), the part of the bank
    return (torch.stack(rows).gather(0, best) + len(bank[0]) * best).squeeze(0)
