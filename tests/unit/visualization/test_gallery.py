# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Galleries."""

import pytest
from anomalib.data import ImageBatch
from matplotlib.figure import Figure

from anople_anomalib.visualization import draw_gallery
from anople_anomalib.visualization.samples import select


def rows_of(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel().startswith("hole/")]


@pytest.mark.parametrize(
    ("order", "numbers"),
    [("given", (0, 1, 2, 3)), ("failures", (1, 2)), ("score", (0, 2, 1, 3))],
)
def test_order_of_the_rows(batch: ImageBatch, order: str, numbers: tuple[int, ...]) -> None:
    names = rows_of(draw_gallery([batch], order=order))
    assert names[: len(numbers)] == [f"hole/{number:03d}" for number in numbers]
    assert len(names) == 4


def test_several_models_stand_side_by_side_with_their_own_verdicts(batch: ImageBatch) -> None:
    other = select([batch], ["hole/000", "hole/001", "hole/002", "hole/003"])
    other.pred_score = 1 - batch.pred_score
    figure = draw_gallery({"AnoPLe": [batch], "PatchCore": [other]}, max_rows=3)
    assert len(rows_of(figure)) == 3
    titles = [axes.get_title() for axes in figure.axes[:6]]
    assert titles == [
        "image",
        "ground truth",
        "AnoPLe\nheat map",
        "above threshold",
        "PatchCore\nheat map",
        "above threshold",
    ]
    verdicts = [axes.get_xlabel() for axes in figure.axes[:18] if axes.get_xlabel()]
    assert verdicts == ["0.90", "0.10 missed", "0.20 missed", "0.80", "0.60 false alarm", "0.40"]


def test_heat_maps_of_all_rows_have_one_scale(batch: ImageBatch) -> None:
    figure = draw_gallery([batch])
    assert {axes.images[1].get_clim() for axes in figure.axes if len(axes.images) == 2} == {(0, 1)}


def test_images_without_map_and_truth_are_drawn(batch: ImageBatch) -> None:
    bare = ImageBatch(image=batch.image, pred_score=batch.pred_score)
    figure = draw_gallery([bare])
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no map"] * 4
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "heat map", "above threshold"]


def test_wrong_arguments_are_explained(batch: ImageBatch) -> None:
    with pytest.raises(ValueError, match=r"order must be one of given, failures, score, got 'worst'\."):
        draw_gallery([batch], order="worst")
    with pytest.raises(ValueError, match=r"There are no models to draw: map the name of each to what"):
        draw_gallery({})
    fewer = select([batch], ["hole/001"])
    with pytest.raises(ValueError, match=r"predictions of 'B' are for other images than those of 'A': use the same"):
        draw_gallery({"A": [batch], "B": [fewer]})
