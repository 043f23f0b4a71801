# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A share of many features that covers them, as in PatchCore."""

import torch
from anomalib.models.components import KCenterGreedy

from anople_anomalib.utils.scoped import seeded


class _Sampler(KCenterGreedy):
    """Anomalib's sampler, without a copy of all features for every center.

    Where threads share the heap, those copies are not given back: 6.7 GB for 16,384 rows, 10 MB themselves.
    """

    def update_distances(self, cluster_center: int | torch.Tensor | None) -> None:
        """Update the smallest distances by those to the center of a number; ``None`` for none."""
        if cluster_center is None:
            return
        center = self.features[cluster_center].reshape(1, -1)
        distances = torch.cdist(self.features, center, compute_mode="donot_use_mm_for_euclid_dist")  # no copy, exact
        self.min_distances = distances if self.min_distances is None else torch.minimum(self.min_distances, distances)

    def select_coreset_idxs(self) -> list[int]:
        """Return the numbers of the chosen rows, without anomalib's progress bar: one memory makes several banks."""
        self.features = self.embedding.flatten(1)
        chosen = torch.randint(self.n_observations, (self.coreset_size,))  # the first counts
        for number in range(1, self.coreset_size):
            self.update_distances(chosen[number - 1])
            chosen[number] = self.get_new_idx()
        return chosen.tolist()


def choose_coreset(features: torch.Tensor, ratio: float) -> torch.Tensor:
    """Choose a share in (0, 1] of features ``(N, width)`` by k-center-greedy, the same in every process."""
    return features[farthest(features, max(1, int(ratio * len(features))))]


def farthest(features: torch.Tensor, number: int) -> list[int]:
    """Choose so many of features ``(N, width)`` as :func:`choose_coreset` does, and return which."""
    with seeded(0):
        sampler = _Sampler(features.cpu(), sampling_ratio=(number + 0.5) / len(features))
        return sampler.select_coreset_idxs()
