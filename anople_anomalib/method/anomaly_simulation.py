# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Simulated anomalies in pixel space and in latent space (sections 3.1 and 8.3 of the AnoPLe paper)."""

from pathlib import Path
from typing import Any

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anople_anomalib.utils.hidden_files import visible

LATENT_SIGMA = 0.015
"""Standard deviation of the latent noise, as in SimpleNet."""


class _Generator(PerlinAnomalyGenerator):
    """anomalib's generator; its textures are sorted, are no hidden files, and are named in an error."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        source = arguments.get("anomaly_source_path")
        self.anomaly_source_paths = visible(sorted(set(self.anomaly_source_paths)), source and Path(source))

    def generate_perturbation(
        self,
        height: int,
        width: int,
        device: torch.device | None = None,
        anomaly_source_path: Path | str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the filling and the mask of one anomaly, see the base class."""
        try:
            return super().generate_perturbation(height, width, device, anomaly_source_path)
        except RuntimeError as error:
            # running out of memory is a RuntimeError as well, like torchvision's for an unreadable image
            if anomaly_source_path is None or isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).strip().splitlines()[0]
            msg = f"The texture '{anomaly_source_path}' cannot be read ({reason}): make it a PNG or JPEG, or remove it."
            raise ValueError(msg) from error


class PixelAnomalySimulator(nn.Module):
    """DRAEM's simulated anomalies: Perlin noise masks filled with noise or with pieces of texture images.

    Args:
        anomaly_source_path: Optional folder of texture images (e.g. DTD) that fill the masks.
        probability: Probability that an image gets an anomaly, in [0, 1].

    Raises:
        FileNotFoundError: If the folder does not exist or has no image.
        ValueError: At work, if a texture cannot be read.
    """

    def __init__(self, anomaly_source_path: Path | str | None = None, probability: float = 0.5) -> None:
        super().__init__()
        self.generator = _Generator(anomaly_source_path=anomaly_source_path, probability=probability)
        if anomaly_source_path is not None and not self.generator.anomaly_source_paths:
            msg = f"anomaly_source_path must be a folder with images, found none in {str(anomaly_source_path)!r}."
            raise FileNotFoundError(msg)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Damage images, each with the given probability.

        Args:
            images: Images I+ before normalization, shape ``(B, 3, H, W)``, values in [0, 1].

        Returns:
            The images I- (or I+ where nothing was done) in [0, 1], and their masks of shape ``(B, 1, H, W)``, 1
            where anomalous.
        """
        damaged, masks = self.generator(images)
        return damaged.clamp(0, 1), masks


def simulate_latent_anomalies(embeddings: torch.Tensor, sigma: float = LATENT_SIGMA) -> torch.Tensor:
    """Simulate latent anomalies ``z-_latent = z+ + eps`` with Gaussian eps, equation (9).

    Args:
        embeddings: L2-normalized embeddings z+ of normal images, shape ``(B, D)``.
        sigma: Standard deviation of the noise.

    Returns:
        L2-normalized embeddings of the same shape.
    """
    return F.normalize(embeddings + sigma * torch.randn_like(embeddings), dim=-1)
