# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The visual memory bank R (sections 3.5 and 6.3 of the AnoPLe paper)."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from anomalib.models.components.base.dynamic_buffer import DynamicBufferMixin
from torch import nn
from torch.nn import functional as F
from typing_extensions import Self

_ROWS, _QUERIES = 2048, 256  # of the bank, of the images: compared at once; 2 MB, which a processor's cache can hold


class BankFeatures(NamedTuple):
    """Patch features of normal images for a bank."""

    features: torch.Tensor  # shape ``(B, n, width)``
    inside: torch.Tensor | None  # which of them belong in the bank, shape ``(B, n)``, dtype bool; ``None`` for all


class MemoryBank(DynamicBufferMixin, nn.Module):
    """Patch features of the normal shots, queried by the nearest cosine distance (13).

    The paper's R holds the shots of all categories. With ``per_category`` an image is compared with the shots of one
    category alone: that whose features are nearest to it on average, which needs no word on what the image shows.

    Args:
        width: Width of the patch features.
        coreset_sampling_ratio: Share of the features that is kept, in (0, 1]: those that k-center-greedy chooses, as
            in PatchCore; of each category with ``per_category``.
        per_category: Whether categories are kept apart.
    """

    def __init__(self, width: int, coreset_sampling_ratio: float = 1.0, per_category: bool = False) -> None:
        super().__init__()
        self.coreset_sampling_ratio = coreset_sampling_ratio
        self.register_buffer("features", torch.empty(0, width))  # R, shape (N, width)
        self.features: torch.Tensor
        # Per category, the bank is C blocks of one length, which an exported model can tell apart: shorter ones are
        # filled up by repeating their last feature, which changes no minimum. Here are their lengths without that.
        self.register_buffer("lengths", torch.zeros(0, dtype=torch.long) if per_category else None)  # (C,)
        self.lengths: torch.Tensor | None

    def __len__(self) -> int:
        """Return the number of patch features in the bank."""
        return self.features.shape[0]

    @property
    def num_categories(self) -> int:
        """How many categories are kept apart: 1 where they are not."""
        return 1 if self.lengths is None else max(1, len(self.lengths))

    def build(
        self,
        features: torch.Tensor,
        categories: Sequence[int] | None = None,
        inside: torch.Tensor | None = None,
    ) -> None:
        """Replace the bank.

        Args:
            features: Patch features of normal images, shape ``(..., width)``; normalized here.
            categories: Number of each image's category, from 0 on without gaps, for the first axis of the features;
                ``None`` where all are of one.
            inside: Which of the features belong in the bank, shape ``(...)``, dtype bool; ``None`` for all.
        """
        groups = [(features, inside)]
        if self.lengths is not None and categories is not None:
            owners = torch.tensor(categories, device=features.device)
            inside = None if inside is None else inside.expand(features.shape[:-1])
            groups = [
                (features[owners == number], None if inside is None else inside[owners == number])
                for number in range(max(categories) + 1)
            ]
        self._keep(self._chosen([self._rows(*group) for group in groups]))

    def extend(self, features: torch.Tensor, category: int = 0, inside: torch.Tensor | None = None) -> None:
        """Add patch features of further normal images.

        Args:
            features: As for :meth:`build`.
            category: Number of their category, where categories are kept apart.
            inside: As for :meth:`build`.
        """
        groups = list(self.features.chunk(self.num_categories))
        if self.lengths is not None:
            groups = [group[:length] for group, length in zip(groups, self.lengths.tolist(), strict=True)]
        groups[category] = torch.cat([groups[category], self._rows(features, inside).to(self.features)])
        self._keep(groups)

    def twin(self) -> Self:
        """Return a bank of the same settings and content, which can be built anew without a change of this one."""
        bank = copy.copy(self)
        bank._buffers = dict(self._buffers)  # noqa: SLF001  # of the copy
        return bank

    def restore(self, twin: Self) -> None:
        """Take over the content of a :meth:`twin` that was made before a change."""
        self._buffers = dict(twin._buffers)  # of its own kind

    def _chosen(self, groups: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return which of the categories' rows :meth:`build` keeps, ``(N_c, width)`` each: all."""
        return groups

    def _keep(self, groups: Sequence[torch.Tensor]) -> None:
        """Set the bank to what the categories hold, rows of shape ``(N_c, width)`` each."""
        longest = max(len(group) for group in groups)
        filled = [torch.cat([group, group[-1:].expand(longest - len(group), -1)]) for group in groups]
        self.features = torch.cat(filled)
        if self.lengths is not None:
            self.lengths = torch.tensor([len(group) for group in groups], device=self.features.device)

    def parts(self) -> Sequence[torch.Tensor]:
        """Return what queries are multiplied by: the parts that are compared at once, ``(m, width)`` each."""
        return [part for group in self._compared.chunk(self.num_categories) for part in group.split(_ROWS)]

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
        return self._to_nearest(self._queries(features))

    def _to_nearest(self, queries: torch.Tensor) -> torch.Tensor:
        """Compute the distances ``(B, n)`` of queries ``(B, n, m)``, see :meth:`_queries`, to the nearest row."""
        parts, banks = self._blocks(queries)
        distances = torch.stack([self._distances(parts, bank) for bank in banks]).unflatten(1, queries.shape[:-1])
        return _of_nearest_category(distances, distances)

    def _distances(self, queries: Sequence[torch.Tensor], bank: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the distances of all queries to one category, shape ``(B * n,)``, values in [0, 1]."""
        similarities = [torch.stack([(part @ rows.T).amax(dim=-1) for rows in bank]).amax(dim=0) for part in queries]
        return (0.5 * (1 - torch.cat(similarities))).clamp(0, 1)

    def _rows(self, features: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the bank keeps of features of shape ``(..., width)``: rows of shape ``(N, width)``."""
        rows = self._prepare(features.detach().float())
        rows = rows.flatten(end_dim=-2) if inside is None else rows[inside.expand(rows.shape[:-1])]
        if self.coreset_sampling_ratio == 1:
            return rows
        from .coreset import choose_coreset

        return choose_coreset(rows, self.coreset_sampling_ratio)

    def _prepare(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features as they are stored: of length 1."""
        return F.normalize(features, dim=-1)

    @property
    def _compared(self) -> torch.Tensor:
        """The rows as queries are compared with them, shape ``(N, m)``."""
        return self.features

    def _queries(self, features: torch.Tensor) -> torch.Tensor:
        """Return features as they are compared with the rows, shape ``(..., m)``."""
        return self._prepare(features)

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """Find the normal patch that is nearest to every patch: the ``r`` of equation (13).

        Args:
            features: As for :meth:`forward`.

        Returns:
            Rows of :attr:`features`, shape ``(B, n)``, dtype long.

        Raises:
            RuntimeError: If the bank is empty.
        """
        queries, banks = self._blocks(self._queries(features))
        rows = [torch.cat([_nearest(part, bank) for part in queries]) for bank in banks]
        block = len(self) // len(banks)
        numbers = torch.stack([each + number * block for number, each in enumerate(rows)])  # (C, B * n)
        distances = torch.stack([self._distances(queries, bank) for bank in banks])
        shape = features.shape[:-1]
        return _of_nearest_category(numbers.unflatten(1, shape), distances.unflatten(1, shape))

    def _blocks(self, queries: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[Sequence[torch.Tensor]]]:
        """Return parts of the queries, ``(Q, m)`` each, and by category the bank in their precision, ``(r, m)`` each.

        Raises:
            RuntimeError: If the bank is empty.
        """
        if len(self) == 0:
            msg = "The memory bank is empty: train the model or load a checkpoint of a trained one first."
            raise RuntimeError(msg)
        queries = queries.flatten(end_dim=-2)  # (B * n, m)
        groups = self._compared.to(queries.dtype).chunk(self.num_categories)
        banks = [group.split(_ROWS) for group in groups]
        return [queries] if torch.compiler.is_compiling() else queries.split(_QUERIES), banks


def _of_nearest_category(values: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Return every image's values, ``(C, B, n)`` by category, for the one nearest on average, ``(B, n)``."""
    if len(values) == 1:
        return values[0]
    nearest = distances.mean(dim=-1, keepdim=True).argmin(dim=0, keepdim=True)  # (1, B, 1)
    return values.gather(0, nearest.expand(1, *values.shape[1:])).squeeze(0)


def _nearest(queries: torch.Tensor, bank: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the index of the row with the largest cosine, shape ``(Q,)``."""
    values, rows = zip(*((queries @ part.T).max(dim=-1) for part in bank), strict=True)
    best = torch.stack(values).argmax(dim=0, keepdim=True)  # (1, Q), the part of the bank
    return (torch.stack(rows).gather(0, best) + len(bank[0]) * best).squeeze(0)
