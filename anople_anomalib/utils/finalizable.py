# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the parts of a Lightning model that are mixed into it ask of the whole."""

from abc import ABC, abstractmethod

from lightning.pytorch import LightningModule


class Finalizable(LightningModule, ABC):
    """A model of which some is computed from its final weights, once, after training."""

    @property
    @abstractmethod
    def is_finalized(self) -> bool:
        """Whether what is computed from the weights belongs to the present ones."""

    @abstractmethod
    def finalize(self) -> None:
        """Compute it."""

    @abstractmethod
    def require_training(self) -> None:
        """Refuse to use what was not trained.

        Raises:
            RuntimeError: If the model is not finalized.
        """
