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


def choose_coreset(features: torch.Tensor, ratio: float) -> torch.Tensor:
    """Choose a share in (0, 1] of features ``(N, width)`` by k-center-greedy, the same in every process.

    A third axis makes anomalib's sampler compare the features themselves, without a random projection.
    """
    ratio = max(ratio, 1.5 / len(features))
    with seeded(0):
        chosen = _Sampler(features.cpu().unsqueeze(1), sampling_ratio=ratio).select_coreset_idxs()
    return features[chosen]
