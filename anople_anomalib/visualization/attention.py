# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Attention of the visual tower (Figures 11 and 12 of the AnoPLe paper)."""

from math import ceil

import numpy as np
from anomalib.data import ImageBatch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from anople_anomalib.anople import AnoPLe

from .passes import attention_of
from .samples import Sample, head, samples_of
from .style import HEAT, SMALL, TRUTH, add_colorbar, label_row, new_grid, show_heat, show_image, show_mask

COLUMNS = 6  # of matrices in a row


def draw_prompt_attention(model: AnoPLe, batch: ImageBatch, index: int = 0) -> Figure:
    """Show how the prompts attend to each other in every layer: Figure 11.

    How to read it: one matrix per layer of the visual tower. A row is a prompt as query, a column a prompt as
    key; first the visual prompts P^v, then those that f_{t->v} makes of the text prompts. The weights are the
    mean over the heads and are divided by what the row gives to all prompts, so that a row sums to 1 and 1 / C
    means "no preference". The title says how much of all attention of the prompts goes to prompts. Light columns on
    the right: the image side listens to the text. Light diagonal blocks: each modality keeps to itself.

    Args:
        model: A trained model.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        index: Which image of the batch.

    Returns:
        The figure.

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


def draw_view_attention(
    model: AnoPLe,
    batch: ImageBatch,
    layer: int = 3,
    local_view: int = 0,
    max_rows: int = 6,
) -> Figure:
    """Show where CLS and the view signals look: Figure 12.

    How to read it: every row is an image, outlined with its ground truth where that is known (sky blue). Light is
    where the token attends to; 1 is the attention that every patch would get if all got the same, and all panels have
    the same scale. The signal of the whole view should look at all of the object; the signal of a crop, which the
    model never sees at test, may look anywhere; CLS, which has learned to tell damaged from sound, may pick out the
    damage.

    Args:
        model: A trained model.
        batch: Images, as ``engine.predict`` or :func:`.samples.load_images` returns them.
        layer: 1-based number of the layer; the paper shows the third.
        local_view: Index of the crop whose signal is shown.
        max_rows: Largest number of images.

    Returns:
        The figure. Without a view signal there is only CLS; without sub-images only one signal.

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
    panels = {name: (heat / heat.mean(dim=(1, 2), keepdim=True)).numpy() for name, heat in heats.items()}
    return _draw_panels(panels, samples_of([batch]), layer)


def _draw_panels(panels: dict[str, np.ndarray], samples: list[Sample], layer: int) -> Figure:
    """Draw the images, and beside them where each token looks."""
    limits = (0.0, float(np.quantile(np.stack(list(panels.values())), 0.995)))
    figure, grid = new_grid(len(samples), 1 + len(panels))
    for row, (axes, sample) in enumerate(zip(grid, samples, strict=True)):
        show_image(axes[0], sample.image)
        show_mask(axes[0], sample.image, sample.truth, TRUTH)
        label_row(axes[0], sample.name)
        for place, heats in zip(axes[1:], panels.values(), strict=True):
            show_heat(place, sample.image, heats[row], limits)
    for place, title in zip(grid[0], ["image", *panels], strict=True):
        place.set_title(title, fontsize=SMALL + 1)
    add_colorbar(figure, grid[:, 1:], limits, f"attention in layer {layer}; 1 is even")
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
