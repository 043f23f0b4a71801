# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A memory that knows in which directions normal patches differ and how they repeat; an image compared with itself."""

from collections.abc import Sequence
from typing import Any

import torch

from .memory_bank import MemoryBank
from .scaled_memory_bank import ScaledMemoryBank

_APART = 0.1  # of the image's side: a patch nearer than that has seen the same pixels
_DRAWN = 4  # times the rows that are kept: among so many drawn at random the farthest are looked for, which saves time
_EVERY = 3  # patch of an image that the others are compared with, a lattice: as good as all of them
_ROUNDING = 1e-6  # of places as shares of a side
_SAME = 1e-5  # of d^2 / 4v: a patch that is in the bank, but for rounding, of which a root would make much
_QUERIES = 256  # compared at once, which bounds the memory of an image of many tiles


class SubspaceMemoryBank(ScaledMemoryBank):
    """Patch features, queried by three distances: to the nearest row, to the subspace of the rows, to the own image.

    The principal directions of the rows that explain most of their variance are those in which normal patches differ
    from each other: how far a patch goes there says less than how far it goes elsewhere, its distance r to the
    subspace through the rows' mean. And most of what a normal image shows, it shows twice: o is the distance to the
    nearest patch at another place of the same image, but at least the mean of that over the shots, lest an image that
    is all alike be normal. With the distance d to the nearest row, ``E = min(1, (d^2 r^2 o^2)^(1/3) / 4v)``: a patch
    is anomalous where all three are large.

    Rows and patches are compared by their coordinates within the subspace and their distance to it, half as many
    numbers; so d and o are lower bounds of the distances of the features.

    Of the shots and their copies no more patches are kept than an image has, those that are farthest from each other:
    more of them find nothing more (docs/results.md), and the search takes no longer with the number of shots and turns.

    Args:
        width: Width of the patch features.
        grid: Height and width of their grid.
        coreset_sampling_ratio: As for :class:`.MemoryBank`; the subspace is that of the coreset.
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
        self.register_buffer("inside", torch.empty(0, width))  # orthonormal directions of the subspace
        self.register_buffer("outside", torch.empty(0, width))  # those off it
        self.register_buffer("repetition", torch.zeros(()))  # mean of o^2 over the shots
        self.register_buffer("coordinates", torch.empty(0, 0), persistent=False)  # of the rows, with their places
        self._patches = len(self.places)  # of an image or a tile
        self.register_buffer("same_place", _same_place(self.places, self._step), persistent=False)
        self.center: torch.Tensor
        self.inside: torch.Tensor
        self.outside: torch.Tensor
        self.repetition: torch.Tensor
        self.coordinates: torch.Tensor
        self.same_place: torch.Tensor

    def build(
        self,
        features: torch.Tensor,
        categories: Sequence[int] | None = None,
        inside: torch.Tensor | None = None,
    ) -> None:
        """Replace the bank; measure the subspace, and how normal images repeat themselves: :meth:`extend` leaves both.

        Of each category no more rows are kept than an image has patches. What :meth:`extend` adds is kept whole: it may
        be what was taken for a defect.

        Args:
            features: As for :class:`.ScaledMemoryBank`; of an image's copies the first is upright.
            categories: As for :class:`.MemoryBank`.
            inside: As for :meth:`.MemoryBank.build`.
        """
        super().build(features, categories, inside)
        places = len(self.places)
        upright = features.detach().float().reshape(-1, *features.shape[-2:])[:, :places]
        distances = torch.cat([self._repeated(self._within(image)) for image in upright.split(1)])
        if inside is not None:
            distances = distances[inside.expand(features.shape[:-1]).reshape(-1, features.shape[-2])[:, :places]]
        self.repetition = distances.mean().clamp_min(torch.finfo(distances.dtype).tiny)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the scaled distance E of every patch.

        Args:
            features: Patch features of query images, shape ``(B, n, width)``.

        Returns:
            Shape ``(B, n)``, values in [0, 1].

        Raises:
            RuntimeError: If the bank is empty.
        """
        queries, unit = self._queries(features.float()), 4 * self.variance
        own = queries[..., :-2]  # without the places
        elsewhere = torch.maximum(self._repeated(own), self.repetition) / unit  # o^2 / 4v
        near, away = self._to_nearest(queries), own[..., -1].square() / unit  # d^2 / 4v, r^2 / 4v
        near = near * (near > _SAME)
        return (near * away * elsewhere.clamp(max=1)).pow(1 / 3).clamp(max=1).to(features.dtype)

    def away(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the squared distance of every patch to the subspace, scaled as the other: ``r^2 / 4v``.

        Args:
            features: Patch features, shape ``(..., width)``.

        Returns:
            Shape ``(...)``, at least 0.
        """
        return self._within(features)[..., -1].square() / (4 * self.variance)

    def elsewhere(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the squared distance of every patch to the nearest at another place of its image: ``o^2 / 4v``.

        Args:
            features: Patch features, shape ``(B, n, width)`` for the n places of the bank.

        Returns:
            Shape ``(B, n)``, at least 0.
        """
        return self._repeated(self._within(features)) / (4 * self.variance)

    def set_places(self, places: torch.Tensor) -> None:
        """Set the places of an image's patches, and which of them are the same for :meth:`elsewhere`."""
        super().set_places(places)
        self.same_place = _same_place(self.places, self._step)

    def parts(self) -> Sequence[torch.Tensor]:
        """Return what queries are multiplied by: the parts of the bank, directions, and the shape of own patches."""
        own = torch.empty(self.same_place.shape[1], len(self.inside) + 1, device="meta")
        return [*super().parts(), self.inside, self.outside, own]

    @property
    def _step(self) -> int:
        """Of the patches that all of an image are compared with: of many tiles as many as of one."""
        return _EVERY * max(1, len(self.places) // self._patches)

    @property
    def _compared(self) -> torch.Tensor:
        """The rows as queries are compared with them."""
        return self.coordinates

    def _queries(self, features: torch.Tensor) -> torch.Tensor:
        """Return coordinates and places of features, shape ``(..., m)``."""
        return self._coordinates_of(self._prepare(features))

    def _coordinates_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of features with their places, shape ``(..., width + 2)``, and the places."""
        width = self.center.shape[0]
        return torch.cat([self._within(rows[..., :width]), rows[..., width:]], dim=-1)

    def _within(self, features: torch.Tensor) -> torch.Tensor:
        """Return the coordinates within the subspace, and last the distance to it."""
        offsets = features - self.center
        residual = (offsets @ self.outside.T).square().sum(dim=-1, keepdim=True)
        return torch.cat([offsets @ self.inside.T, residual.sqrt()], dim=-1)

    def _repeated(self, patches: torch.Tensor) -> torch.Tensor:
        """Return o^2 of an image's patches, ``(B, n)``, from what :meth:`_within` returns of them."""
        return _nearest_elsewhere(patches, self.same_place, self._step)

    def _chosen(self, groups: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Find the subspace of all rows, and choose those that are kept of each category."""
        rows = torch.cat(list(groups))[:, : len(self.center)]  # without their places
        self.center = rows.mean(dim=0)
        covariance = torch.cov(rows.T, correction=0).reshape(rows.shape[1], rows.shape[1])
        values, directions = torch.linalg.eigh(covariance.double().cpu())  # from the smallest on
        explained = values.clamp_min(0).cumsum(dim=0)
        is_outside = explained <= (1 - self.share) * explained[-1]
        self.outside, self.inside = directions.T[is_outside].to(rows), directions.T[~is_outside].to(rows)
        return [self._spread_out(group) for group in groups]

    def _spread_out(self, rows: torch.Tensor) -> torch.Tensor:
        """Choose as many rows as an image has patches, those farthest from each other; in every process the same."""
        number = len(self.places)
        if len(rows) <= number:
            return rows
        from .coreset import farthest

        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: _DRAWN * number]
        rows = rows[drawn.to(rows.device)]
        return rows[farthest(self._coordinates_of(rows), number)]

    def _keep(self, groups: Sequence[torch.Tensor]) -> None:
        """Set the bank to what the categories hold."""
        super()._keep(groups)
        self.coordinates = self._coordinates_of(self.features)

    def _load_from_state_dict(self, *args: Any) -> None:
        """Load the rows and the subspace, and compute the coordinates of the rows."""
        super()._load_from_state_dict(*args)
        self.coordinates = self._coordinates_of(self.features)


class OwnPatches(MemoryBank):
    """A bank that holds nothing: it compares the patches of an image with those at other places of the same image.

    Distances are measured as another bank measures them: ``o^2 / 4v``, with a subspace ``o r / 4v``.

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
        patches, bank = features.float(), self._bank
        if isinstance(bank, SubspaceMemoryBank):
            near = (bank.elsewhere(patches) * bank.away(patches)).sqrt()
        else:
            near = _nearest_elsewhere(patches, _same_place(bank.places, _EVERY), _EVERY) / (4 * bank.variance)
        return near.clamp(max=1).to(features.dtype)


def _same_place(places: torch.Tensor, step: int) -> torch.Tensor:
    """Return minus infinity where a patch of an image, at places ``(n, 2)``, is too near a step-th one, else 0.

    Its shape is ``(n, s)``. It is added, which runtimes do in a quarter of the time of a choice.
    """
    near = ((places.unsqueeze(1) - places[::step]).abs() < _APART - _ROUNDING).all(dim=-1)
    return torch.zeros(near.shape, device=places.device).masked_fill_(near, -torch.inf)


def _nearest_elsewhere(patches: torch.Tensor, same_place: torch.Tensor, step: int) -> torch.Tensor:
    """Compute the squared distance of patches to the nearest of every step-th one that is at another place.

    Args:
        patches: Shape ``(B, n, m)``.
        same_place: See :func:`_same_place`.
        step: Of the patches that all are compared with.

    Returns:
        Shape ``(B, n)``; infinity where no patch is far enough away.
    """
    others = patches[:, ::step]  # (B, s, m)
    offsets = others.square().sum(dim=-1).unsqueeze(1) / -2  # (B, 1, s)
    whole = torch.compiler.is_compiling()
    blocks = (
        [(patches, same_place)] if whole else zip(patches.split(_QUERIES, 1), same_place.split(_QUERIES), strict=True)
    )
    closeness = [  # <p, s> - |s|^2 / 2
        torch.baddbmm(offsets, part, others.mT).add_(same).amax(dim=-1) for part, same in blocks
    ]
    return (patches.square().sum(dim=-1) - 2 * torch.cat(closeness, dim=1)).clamp_min(0)
