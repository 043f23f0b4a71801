# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A look inside a trained model: the maps that make an anomaly map, and attention (Figures 2, 11 and 12)."""

from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch.nn import functional as F

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.attention import recorded_attention
from anople_anomalib.utils.batches import images_of

from .samples import head, samples_of
from .style import HEAT, SMALL, add_colorbar, label_columns, new_grid, show_heat

MEMORY_TITLE = r"memory $M_{mem}$"
COLUMNS = 6  # of matrices in a row


class Evidence(NamedTuple):
    """The parts of a prediction as the equations give them: neither normalized nor thresholded.

    Attributes:
        decoder: M_hat, shape ``(B, h, w)``, values in [0, 1].
        memory: M_mem of equation (13), shape ``(B, h, w)``, values in [0, 1]; ``None`` without a memory.
        fused: M_q of equation (12), shape ``(B, h, w)``; the decoder's map without a memory.
        probability: p_hat of equation (8), shape ``(B,)``, values in [0, 1].
        embeddings: z^0, L2-normalized, shape ``(B, D)``.
    """

    decoder: torch.Tensor
    memory: torch.Tensor | None
    fused: torch.Tensor
    probability: torch.Tensor
    embeddings: torch.Tensor


class Attention(NamedTuple):
    """Attention weights of the visual tower, mean over the heads.

    Attributes:
        patches: Attention of CLS and of the view signal, if there is one, to the patches: shape
            ``(B, 1 or 2, layers, h, w)``.
        prompts: Attention of the prompts to each other, shape ``(B, layers, C, C)``, query by key.
    """

    patches: torch.Tensor
    prompts: torch.Tensor


@torch.no_grad()
def evidence_of(model: AnoPLe, batch: ImageBatch) -> Evidence:
    """Compute the parts of a prediction, on the CPU.

    Args:
        model: A trained model.
        batch: A batch, as ``engine.predict`` or :func:`.samples.load_images` returns it.
    """
    parts = model.model
    visual = parts.encode_whole(images_on(model, batch))
    decoder = parts.decoder_map(visual)
    memory = None if parts.memory_bank is None else parts.memory_map(visual)
    return Evidence(
        decoder=decoder.cpu(),
        memory=None if memory is None else memory.cpu(),
        fused=parts.fusion.map(decoder, memory).cpu(),
        probability=parts.abnormal_probability(visual).cpu(),
        embeddings=F.normalize(visual.image_embedding, dim=-1).cpu(),
    )


@torch.no_grad()
def attention_of(model: AnoPLe, batch: ImageBatch, view: int = -1) -> Attention:
    """Record the attention of one pass, on the CPU.

    Args:
        model: A trained model.
        batch: As for :func:`evidence_of`.
        view: Index of the view signal that goes along; the default is that of the whole image.
    """
    tower, learner = model.model.clip.visual, model.model.prompt_learner
    with recorded_attention(tower) as recorded:
        model.model.encode_whole(images_on(model, batch), view)
    weights = torch.stack(recorded, dim=1).cpu()  # (B, layers, L, L), tokens [CLS, patches, view signal, prompts]
    height, width = tower.grid
    patches, first_prompt = slice(1, 1 + height * width), weights.shape[-1] - learner().visual.shape[1]
    # CLS, and the view signal right behind the patches
    queries = [0] if learner.view_signal is None else [0, patches.stop]
    to_patches = weights[:, :, queries, patches].transpose(1, 2)
    return Attention(
        patches=to_patches.unflatten(-1, (height, width)),
        prompts=weights[:, :, first_prompt:, first_prompt:],
    )


def images_on(model: AnoPLe, batch: ImageBatch) -> torch.Tensor:
    """Return the images of a batch, on the model's device; a model that does not see them whole is a ``ValueError``."""
    if model.model.tiling is not None:
        msg = "This model sees tiles or a region of an image (tiles, roi): these figures are of models of whole images."
        raise ValueError(msg)
    return images_of(batch).to(model.device)


def draw_maps(model: AnoPLe, batch: ImageBatch, max_rows: int = 6) -> Figure:
    """Show the decoder's map, the memory's map and their fusion side by side: the right part of Figure 2, in images.

    How to read it: every row is an image, outlined with its ground truth where that is known (sky blue). The decoder
    knows simulated defects; the memory knows the normal shots; the fusion is large where both are. A column has one
    scale for all rows, given below it: the maps are those of equations (12) and (13), before anomalib's normalization.
    The memory's distances are much smaller than probabilities, and the fusion follows the smaller of the two.

    Args:
        model: A trained model; one without a memory has the decoder's map alone.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        max_rows: Largest number of images.
    """
    batch = head(batch, max_rows)
    samples, evidence = samples_of([batch]), evidence_of(model, batch)
    columns = [(r"decoder $\hat{M}$", evidence.decoder, "abnormal probability")]
    if evidence.memory is not None:
        columns += [(MEMORY_TITLE, evidence.memory, "cosine distance / 2")]
        columns += [(r"fused $M_q$", evidence.fused, "harmonic fusion")]
    figure, grid = new_grid(len(samples), 1 + len(columns))
    for axes, sample in zip(grid[:, 0], samples, strict=True):
        sample.show_named(axes)
    label_columns(grid, ["image, ground truth", *(title for title, _, _ in columns)])
    for place, (_, maps, unit) in zip(grid[:, 1:].T, columns, strict=True):
        low, high = float(maps.min()), float(maps.max())
        limits = (low, high if high > low else low + 1)  # a constant map has a scale as well
        for axes, sample, heat in zip(place, samples, maps.float().numpy(), strict=True):
            show_heat(axes, sample.image, heat, limits)
        add_colorbar(figure, place[:, np.newaxis], limits, unit)
    return figure


def draw_prompt_attention(model: AnoPLe, batch: ImageBatch, index: int = 0) -> Figure:
    """Show how the prompts attend to each other in every layer: Figure 11.

    How to read it: one matrix per layer of the visual tower. A row is a prompt as query, a column a prompt as
    key; first the visual prompts P^v, then those that f_{t->v} makes of the text prompts. The weights are the
    mean over the heads and are divided by the row's attention to all prompts, so that a row sums to 1 and 1 / C
    means "no preference". The title says how much of all attention of the prompts goes to prompts. Light columns on
    the right: the image side listens to the text. Light diagonal blocks: each modality keeps to itself.

    Args:
        model: A trained model.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        index: Number of the image in the batch.

    Raises:
        ValueError: If the model has no prompts in the visual tower.
    """
    learner = model.model.prompt_learner
    own, number = learner.visual_prompts.shape[1], learner().visual.shape[1]
    if not number:
        coupling = model.hparams["prompts"]["coupling"]
        msg = f"A model with coupling {coupling!r} has no prompts in the visual tower to draw."
        raise ValueError(msg)
    weights = attention_of(model, head(batch, index + 1)).prompts[index]  # (layers, C, C)
    shares = (weights / weights.sum(dim=-1, keepdim=True)).numpy()
    columns = min(COLUMNS, len(shares))
    figure, grid = new_grid(ceil(len(shares) / columns), columns, cell=1.75, words=0.5)
    for axes in grid.flat[len(shares) :]:
        axes.set_axis_off()
    for layer, (axes, matrix, whole) in enumerate(zip(grid.flat, shares, weights, strict=False), start=1):
        _draw_matrix(axes, matrix, own, shares.max())
        axes.set_title(f"layer {layer}\n{whole.sum(dim=-1).mean():.0%} to prompts", fontsize=SMALL)
    colors = ScalarMappable(cmap=HEAT)
    colors.set_clim(0, shares.max())
    bar = figure.colorbar(colors, ax=grid, location="bottom", fraction=0.05, aspect=60, shrink=0.6, pad=0.03)
    bar.set_label(f"share among the prompts (even: {1 / number:.2f})", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def _draw_matrix(axes: Axes, matrix: np.ndarray, own: int, highest: float) -> None:
    """Draw an attention matrix, queries in rows and keys in columns; the first ``own`` are P^v, the others P^{t->v}."""
    axes.imshow(matrix, cmap=HEAT, vmin=0, vmax=highest)
    groups = {r"$P^v$": (0, own), r"$P^{t\to v}$": (own, len(matrix))}
    centers = {label: (start + stop - 1) / 2 for label, (start, stop) in groups.items() if stop > start}
    axes.set_xticks(list(centers.values()), list(centers), fontsize=SMALL + 1)
    axes.set_yticks(list(centers.values()), list(centers), fontsize=SMALL + 1)
    axes.tick_params(length=0)
    if len(centers) > 1:
        axes.axhline(own - 0.5, color="white", linewidth=1)
        axes.axvline(own - 0.5, color="white", linewidth=1)


def draw_view_attention(
    model: AnoPLe, batch: ImageBatch, layer: int = 3, local_view: int = 0, max_rows: int = 6
) -> Figure:
    """Show where CLS and the view signals look: Figure 12.

    How to read it: every row is an image, outlined with its ground truth where that is known (sky blue). Light is
    where the token attends to; 1 is the attention that every patch would get if all got the same, and all panels have
    the same scale. The signal of the whole view should look at all of the object; the signal of a crop, which the
    model never sees at test, may look anywhere; CLS, which has learned to tell damaged from sound, may pick out the
    damage.

    Args:
        model: A trained model; without a view signal there is only CLS, without sub-images only one signal.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        layer: 1-based number of the layer; the paper shows the third.
        local_view: Index of the crop whose signal is shown.
        max_rows: Largest number of images.

    Raises:
        ValueError: If the tower has no such layer.
    """
    depth, learner = model.model.clip.visual.depth, model.model.prompt_learner
    if not 1 <= layer <= depth:
        msg = f"layer must be between 1 and {depth}, the depth of this backbone's visual tower, got {layer}."
        raise ValueError(msg)
    batch = head(batch, max_rows)
    whole = attention_of(model, batch).patches[:, :, layer - 1]  # (B, 1 or 2, h, w)
    heats = {"CLS": whole[:, 0]}
    if learner.view_signal is not None:
        heats[f"whole view $c_{len(learner.view_signal)}$"] = whole[:, 1]
        if len(learner.view_signal) > 1:
            local = attention_of(model, batch, view=local_view).patches[:, 1, layer - 1]
            heats[f"crop $c_{local_view + 1}$"] = local
    panels = np.stack([(heat / heat.mean(dim=(1, 2), keepdim=True)).numpy() for heat in heats.values()])
    limits = (0.0, float(np.quantile(panels, 0.995)))
    samples = samples_of([batch])
    figure, grid = new_grid(len(samples), 1 + len(panels))
    for axes, sample, row in zip(grid, samples, panels.swapaxes(0, 1), strict=True):
        sample.show_named(axes[0])
        for place, heat in zip(axes[1:], row, strict=True):
            show_heat(place, sample.image, heat, limits)
    label_columns(grid, ["image", *heats])
    add_colorbar(figure, grid[:, 1:], limits, f"attention in layer {layer}; 1 is even")
    return figure
