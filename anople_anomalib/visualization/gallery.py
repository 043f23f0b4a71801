# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Galleries of images, ground truth, heat maps and overlays (Figures 3, 8, 9 and 10 of the AnoPLe paper)."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .samples import Predictions, Sample, samples_of
from .style import (
    ANOMALOUS,
    PREDICTION,
    SMALL,
    TRUTH,
    add_colorbar,
    label_row,
    new_grid,
    show_heat,
    show_image,
    show_mask,
)

ORDERS = ("given", "failures", "score")


def draw_gallery(
    predictions: Predictions | Mapping[str, Predictions],
    order: str = "given",
    max_rows: int = 8,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Show what was found in which image: Figures 9 and 10, with several models Figure 3, failures first Figure 8.

    How to read it: every row is an image. Then come the ground truth if it is known (sky blue outline), the heat map
    of each model (light is anomalous, the same colors in all rows) and the pixels above its threshold (orange), again
    with the ground truth. The number below is the image-level score: 0.5 is the threshold, and a score on the wrong
    side of it is marked as "missed" or "false alarm".

    Args:
        predictions: What ``engine.predict`` returns; for several models a mapping from their names to that.
        order: ``"given"``, ``"failures"`` (the score that is furthest on the wrong side of the threshold comes first,
            judged by the first model) or ``"score"`` (the most anomalous first).
        max_rows: Largest number of images.
        limits: Values of the darkest and of the lightest color of the heat maps; (0, 1) fits normalized maps.

    Returns:
        The figure.

    Raises:
        ValueError: If the order is unknown, there is nothing to draw, or the models were given different images.
    """
    if order not in ORDERS:
        msg = f"order must be one of {', '.join(ORDERS)}, got {order!r}."
        raise ValueError(msg)
    by_model = predictions if isinstance(predictions, Mapping) else {"": predictions}
    if not by_model:
        msg = "There are no models to draw: map the name of each to what engine.predict returns."
        raise ValueError(msg)
    return gallery_of(_rows(by_model, order, max_rows), list(by_model), limits)


def gallery_of(rows: Sequence[Sequence[Sample]], names: Sequence[str], limits: tuple[float, float] = (0, 1)) -> Figure:
    """Draw a gallery of samples, see :func:`draw_gallery`.

    Args:
        rows: One sample per model, for every image.
        names: Names of the models.
        limits: Values of the darkest and of the lightest color of the heat maps.

    Returns:
        The figure.
    """
    has_truth = any(row[0].truth is not None for row in rows)
    first = 2 if has_truth else 1  # column of the first model
    figure, grid = new_grid(len(rows), first + 2 * len(names))
    for axes, row in zip(grid, rows, strict=True):
        for place in axes[:first]:
            show_image(place, row[0].image)
        label_row(axes[0], row[0].name)
        if has_truth:
            show_mask(axes[1], row[0].image, row[0].truth, TRUTH)
        for sample, heat, overlay in zip(row, axes[first::2], axes[first + 1 :: 2], strict=True):
            _show_prediction(sample, heat, overlay, limits)
    headers = ["image", "ground truth"][:first]
    for name in names:
        headers += [f"{name}\nheat map".strip(), "above threshold"]
    for place, header in zip(grid[0], headers, strict=True):
        place.set_title(header, fontsize=SMALL + 1)
    for column in range(first, grid.shape[1], 2):
        add_colorbar(figure, grid[:, [column]], limits, "anomaly map")
    return figure


def failures_first(samples: Sequence[Sample]) -> list[int]:
    """Return the order of samples in which the score furthest on the wrong side of the threshold comes first."""
    return sorted(range(len(samples)), key=lambda index: -samples[index].error)


def _rows(by_model: Mapping[str, Predictions], order: str, max_rows: int) -> list[tuple[Sample, ...]]:
    """Return the samples of all models, image by image."""
    columns = {name: samples_of(predictions) for name, predictions in by_model.items()}
    first_name, first = next(iter(columns.items()))
    for name, samples in columns.items():
        if [sample.name for sample in samples] != [sample.name for sample in first]:
            msg = f"The predictions of {name!r} are for other images than those of {first_name!r}: use the same data."
            raise ValueError(msg)
    chosen = list(range(len(first)))
    if order == "failures":
        chosen = failures_first(first)
    elif order == "score":
        chosen = sorted(chosen, key=lambda index: -(first[index].score or 0))
    return [tuple(samples[index] for samples in columns.values()) for index in chosen[:max_rows]]


def _show_prediction(sample: Sample, heat: Axes, overlay: Axes, limits: tuple[float, float]) -> None:
    """Draw the heat map and the thresholded overlay of one model."""
    if sample.heat is None:
        show_image(heat, sample.image)
        heat.text(0.5, 0.5, "no map", ha="center", va="center", transform=heat.transAxes)
    else:
        show_heat(heat, sample.image, sample.heat, limits)
    show_image(overlay, sample.image)
    show_mask(overlay, sample.image, sample.predicted, PREDICTION, fill=True)
    show_mask(overlay, sample.image, sample.truth, TRUTH)
    overlay.set_xlabel(sample.verdict, fontsize=SMALL, color=ANOMALOUS if sample.is_wrong else "black", labelpad=2)
