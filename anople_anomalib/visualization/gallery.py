# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Galleries of images, ground truth, heat maps and overlays (Figures 3, 8, 9 and 10 of the AnoPLe paper)."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .samples import Predictions, Sample, samples_of
from .style import ANOMALOUS, SMALL, add_colorbar, label_columns, new_grid, show_heat

ORDERS = ("given", "failures", "score")
LIMITS = (0.0, 1.0)  # of normalized maps


def draw_gallery(
    predictions: Predictions | Mapping[str, Predictions], order: str = "given", max_rows: int = 8
) -> Figure:
    """Show the images and their predictions: Figures 9 and 10, with several models Figure 3, failures first Figure 8.

    How to read it: every row is an image. Then come the ground truth if it is known (sky blue outline), the heat map
    of each model (light is anomalous, the same colors in all rows) and the pixels above its threshold (orange), again
    with the ground truth. The number below is the image-level score: 0.5 is the threshold, and a score on the wrong
    side of it is marked as "missed" or "false alarm".

    Args:
        predictions: Batches as ``engine.predict`` returns them; for several models a mapping from their names to that.
        order: ``"given"``, ``"failures"`` (the score that is furthest on the wrong side of the threshold comes first,
            judged by the first model) or ``"score"`` (the most anomalous first).
        max_rows: Largest number of images.

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
    rows = _rows(by_model, order, max_rows)
    has_truth = any(row[0].truth is not None for row in rows)
    first = 2 if has_truth else 1  # column of the first model
    figure, grid = new_grid(len(rows), first + 2 * len(by_model))
    for axes, row in zip(grid, rows, strict=True):
        row[0]._replace(truth=None).show_named(axes[0])
        if has_truth:
            row[0].show(axes[1])
        for sample, heat, overlay in zip(row, axes[first::2], axes[first + 1 :: 2], strict=True):
            _show_prediction(sample, heat, overlay)
    headers = ["image", "ground truth"][:first]
    for name in by_model:
        headers += [f"{name}\nheat map".strip(), "above threshold"]
    label_columns(grid, headers)
    for column in range(first, grid.shape[1], 2):
        add_colorbar(figure, grid[:, [column]], LIMITS, "anomaly map")
    return figure


def _rows(by_model: Mapping[str, Predictions], order: str, max_rows: int) -> Sequence[tuple[Sample, ...]]:
    """Return the samples of all models, image by image."""
    columns = {name: samples_of(predictions) for name, predictions in by_model.items()}
    first_name, first = next(iter(columns.items()))
    for name, samples in columns.items():
        if [sample.name for sample in samples] != [sample.name for sample in first]:
            msg = f"The predictions of {name!r} are for other images than those of {first_name!r}: use the same data."
            raise ValueError(msg)
    rows = list(zip(*columns.values(), strict=True))
    if order == "failures":
        rows.sort(key=lambda row: -row[0].error)
    elif order == "score":
        rows.sort(key=lambda row: -(row[0].score or 0))
    return rows[:max_rows]


def _show_prediction(sample: Sample, heat: Axes, overlay: Axes) -> None:
    """Draw the heat map and the thresholded overlay of one model."""
    if sample.heat is None:
        sample._replace(truth=None).show(heat)
        heat.text(0.5, 0.5, "no map", ha="center", va="center", transform=heat.transAxes)
    else:
        show_heat(heat, sample.image, sample.heat, LIMITS)
    sample.show(overlay, predicted=True)
    overlay.set_xlabel(sample.verdict, fontsize=SMALL, color=ANOMALOUS if sample.is_wrong else "black", labelpad=2)
