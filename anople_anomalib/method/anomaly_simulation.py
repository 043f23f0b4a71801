# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Simulated anomalies in pixel space and in latent space (sections 3.1 and 8.3 of the AnoPLe paper)."""

from pathlib import Path

import skimage
import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from torch import nn
from torch.nn import functional as F

from anople_anomalib.utils.files import first_line, visible

LATENT_SIGMA = 0.015
"""Standard deviation of the latent noise, as in SimpleNet."""


PHOTOGRAPHS, DTD, NOISE = "photographs", "dtd", "noise"
"""The words that name a source of textures; anything else is a folder."""

_PHOTOGRAPH_FILES = (  # of scikit-image's wheel, public domain or CC0; brick, grass and gravel are tested on
    "astronaut.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def texture_files(source: Path | str) -> list[Path]:
    """Find the images that fill simulated anomalies.

    Args:
        source: ``"photographs"`` (of scikit-image, no download), ``"dtd"`` (the Describable Textures Dataset, as DRAEM
            has it; downloaded once, as anomalib does), ``"noise"`` (Perlin noise fills itself), or a folder.

    Returns:
        The files in the order of their names; none for ``"noise"``.

    Raises:
        FileNotFoundError: If a folder has no images, or DTD is neither there nor to be downloaded.
    """
    if source == NOISE:
        return []
    if source == PHOTOGRAPHS:
        folder = Path(skimage.__file__).parent / "data"
        return [folder / name for name in _PHOTOGRAPH_FILES]
    folder = _dtd_folder() if source == DTD else Path(source)
    files = visible(sorted({path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES}), folder)
    if not files:
        msg = (
            f"training.anomaly_source must be {PHOTOGRAPHS!r}, {DTD!r}, {NOISE!r} or a folder with images, found none "
            f"in {str(source)!r}."
        )
        raise FileNotFoundError(msg)
    return files


def _dtd_folder() -> Path:
    """Return the folder of DTD where anomalib keeps it, downloaded if it is not there."""
    from anomalib.data.utils.download import download_and_extract
    from anomalib.models.image.draem.lightning_model import DTD_DOWNLOAD_INFO
    from anomalib.utils.path import resolve_dataset_root

    folder = resolve_dataset_root("./datasets/dtd", "dtd")
    if not folder.is_dir() or not any(folder.iterdir()):  # a failed download leaves an empty folder behind
        try:
            download_and_extract(folder, DTD_DOWNLOAD_INFO)
        except OSError as error:  # URLError is one
            msg = (
                f"The textures of DTD are not in '{folder}' and cannot be downloaded ({error}): connect to the "
                f"internet once, put it there, or use --model.training.anomaly_source {PHOTOGRAPHS}, which needs none."
            )
            raise FileNotFoundError(msg) from error
    return folder


class _Generator(PerlinAnomalyGenerator):
    """anomalib's generator, whose textures do not depend on the order of the file system and are named in an error."""

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
            if anomaly_source_path is None or isinstance(error, torch.OutOfMemoryError):
                raise
            reason = first_line(error)
            msg = f"The texture '{anomaly_source_path}' cannot be read ({reason}): make it a PNG or JPEG, or remove it."
            raise ValueError(msg) from error


class PixelAnomalySimulator(nn.Module):
    """DRAEM's simulated anomalies: Perlin noise masks filled with pieces of texture images or with noise.

    Args:
        anomaly_source_path: What fills the masks, see :func:`texture_files`; looked for at the first use, as a model
            that judges needs none.
        probability: Probability that an image gets an anomaly, in [0, 1].
        paired: Whether the images are handed out as well, before those made of them, as equation (9) has z+ and z-.
    """

    def __init__(self, anomaly_source_path: Path | str = NOISE, probability: float = 0.5, paired: bool = False) -> None:
        super().__init__()
        self.paired, self._source = paired, str(anomaly_source_path)
        self._has_textures = False
        # anomalib draws the threshold of its solarization while the generator is made: here, where the seed is set
        self.generator = _Generator(probability=probability)

    def find_textures(self) -> None:
        """Look for the textures, once; a folder that is not there or has no image is a ``FileNotFoundError``."""
        if not self._has_textures:
            self.generator.anomaly_source_paths = texture_files(self._source)
            self._has_textures = True

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Damage images, each with the given probability.

        Args:
            images: Images I+ before normalization, shape ``(B, 3, H, W)``, values in [0, 1].

        Returns:
            The images I- (or I+ where nothing was done) in [0, 1], and their masks of shape ``(B, 1, H, W)``, 1
            where anomalous; in pairs ``2 B`` of both, the images I+ first.

        Raises:
            FileNotFoundError: If there are no textures.
            ValueError: If a texture cannot be read.
        """
        self.find_textures()
        damaged, masks = self.generator(images)
        damaged = damaged.clamp(0, 1)
        if not self.paired:
            return damaged, masks
        return torch.cat([images, damaged]), torch.cat([torch.zeros_like(masks), masks])


def simulate_latent_anomalies(embeddings: torch.Tensor, sigma: float = LATENT_SIGMA) -> torch.Tensor:
    """Simulate latent anomalies ``z-_latent = z+ + eps`` with Gaussian eps, equation (9).

    Embeddings, shape ``(B, D)``, have length 1, the given as the returned ones.
    """
    return F.normalize(embeddings + sigma * torch.randn_like(embeddings), dim=-1)
