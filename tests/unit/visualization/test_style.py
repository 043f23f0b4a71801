# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What holds for every image."""

import inspect
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anople_anomalib import visualization
from anople_anomalib.anople import AnoPLe
from anople_anomalib.visualization.explanation import Shot
from anople_anomalib.visualization.style import new_grid, show_heat, show_image, show_mask

SHOTS = [Shot("000.png", np.full((64, 64, 3), 0.5)), Shot("001.png", np.full((64, 64, 3), 0.2))]
CURVES = {"train_loss": [3.0, 2.0, 1.0], "train_pixel_loss": [1.0, 1.0, 0.5], "train_image_loss": [2.0, 1.0, 0.5]}
FIGURES: dict[str, Callable[[AnoPLe, ImageBatch], Figure]] = {
    "gallery": lambda _model, batch: visualization.draw_gallery([batch]),
    "gallery_of_models": lambda _model, batch: visualization.draw_gallery({"AnoPLe": [batch], "PatchCore": [batch]}),
    "maps": visualization.draw_maps,
    "nearest_normal": lambda model, batch: visualization.draw_nearest_normal(model, batch, SHOTS),
    "features": lambda model, batch: visualization.draw_features(model, [batch]),
    "scores": lambda _model, batch: visualization.draw_scores([batch]),
    "scores_of_models": lambda _model, batch: visualization.draw_scores({"AnoPLe": [batch], "PatchCore": [batch]}),
    "prompt_attention": visualization.draw_prompt_attention,
    "view_attention": visualization.draw_view_attention,
    "training_curves": lambda _model, _batch: visualization.draw_training_curves(CURVES),
}


@pytest.fixture(params=FIGURES)
def draw(request: pytest.FixtureRequest, model: AnoPLe, batch: ImageBatch) -> Callable[[], Figure]:
    """Every function that draws, with its data."""
    return lambda: FIGURES[request.param](model, batch)


def test_a_image_changes_nothing_global_and_nothing_of_the_model(draw: Callable[[], Figure], model: AnoPLe) -> None:
    settings, state = dict(mpl.rcParams), {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    FigureCanvasAgg(draw()).draw()
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == []
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0, equal_nan=True)


def test_no_word_is_cut_off_and_no_axes_are_empty(draw: Callable[[], Figure]) -> None:
    figure = draw()
    FigureCanvasAgg(figure).draw()
    words, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(words.x0, words.y0) >= 0
    assert words.x1 <= width
    assert words.y1 <= height
    for axes in figure.axes:
        assert axes.has_data() or axes.collections or not axes.axison
    texts = [text for text in figure.findobj(mpl.text.Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 7 * 0.7  # of indices in formulas


def test_every_function_says_which_figure_it_follows_and_how_to_read_it() -> None:
    functions = {name: getattr(visualization, name) for name in visualization.__all__ if name.startswith("draw_")}
    assert len(functions) == 8
    for name, function in functions.items():
        assert "Figure" in function.__doc__ or "the paper has no such figure" in function.__doc__, name
        assert "How to read it:" in function.__doc__, name
        assert inspect.signature(function).return_annotation is Figure


def test_a_mask_is_outlined_where_it_is_whatever_its_size() -> None:
    _, grid = new_grid(1, 1)
    image, mask = np.zeros((30, 60, 3)), np.zeros((10, 10), dtype=bool)
    mask[:4, 5:7] = True  # touches the border
    show_image(grid[0, 0], image)
    show_mask(grid[0, 0], image, mask, "red", fill=True)
    for drawn in grid[0, 0].collections:
        points = np.concatenate([path.vertices for path in drawn.get_paths()])
        np.testing.assert_allclose(points.min(axis=0), (30, 0), atol=3.1)  # half a pixel of the mask
        np.testing.assert_allclose(points.max(axis=0), (42, 12), atol=3.1)
    assert grid[0, 0].get_xlim() == (0, 60)
    assert grid[0, 0].get_ylim() == (30, 0)


@pytest.mark.parametrize("mask", [None, np.zeros((4, 4), dtype=bool)])
def test_no_mask_draws_nothing(mask: np.ndarray | None) -> None:
    _, grid = new_grid(1, 1)
    show_mask(grid[0, 0], np.zeros((8, 8, 3)), mask, "red")
    assert not grid[0, 0].collections


def test_a_heat_map_covers_the_image_on_the_given_scale() -> None:
    _, grid = new_grid(1, 1)
    heat = np.arange(6.0).reshape(2, 3)
    show_heat(grid[0, 0], np.zeros((30, 60, 3)), heat, (0, 10))
    below, above = grid[0, 0].images
    assert above.get_extent() == below.get_extent() == [0, 60, 30, 0]
    assert above.get_clim() == (0, 10)
    np.testing.assert_array_equal(above.get_array(), heat)
