# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a model says about images besides its prediction, and the images of it."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.attention import recorded_attention
from anople_anomalib.method.fusion import PaperFusion
from anople_anomalib.visualization import draw_maps, draw_prompt_attention, draw_view_attention, inside
from anople_anomalib.visualization.inside import attention_of, evidence_of
from helpers.miniature import DEPTH, NUM_PATCHES
from helpers.training import finish, make_model


def test_evidence_adds_up_to_the_prediction(model: AnoPLe, batch: ImageBatch) -> None:
    evidence = evidence_of(model, batch)
    with torch.no_grad():
        prediction = model.model(batch.image)
    assert_close(evidence.fused.unsqueeze(1), prediction.anomaly_map)
    assert_close(PaperFusion().score(evidence.probability, evidence.fused).unsqueeze(1), prediction.pred_score)
    assert_close(1 / (1 / evidence.decoder + 1 / evidence.memory), evidence.fused)
    assert_close(evidence.embeddings.norm(dim=-1), torch.ones(4))


def test_without_a_memory_the_decoder_alone_speaks(batch: ImageBatch, shots: torch.Tensor) -> None:
    model = finish(make_model(enabled=False), shots)
    evidence = evidence_of(model, batch)
    assert evidence.memory is None
    assert torch.equal(evidence.fused, evidence.decoder)
    assert len(draw_maps(model, batch, max_rows=1).axes) == 2 + 1  # image, decoder, color bar


def test_maps_are_drawn_as_they_are_each_column_on_its_own_scale(model: AnoPLe, batch: ImageBatch) -> None:
    evidence, figure = evidence_of(model, batch), draw_maps(model, batch, max_rows=2)
    panels = np.array(figure.axes[:8]).reshape(2, 4)
    for column, maps in zip(panels[:, 1:].T, (evidence.decoder, evidence.memory, evidence.fused), strict=True):
        for axes, expected in zip(column, maps[:2], strict=True):
            np.testing.assert_allclose(axes.images[1].get_array(), expected, rtol=1e-4)
            np.testing.assert_allclose(axes.images[1].get_clim(), (maps[:2].min(), maps[:2].max()), rtol=1e-4)


def test_a_constant_map_has_a_scale_as_well(model: AnoPLe, batch: ImageBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = evidence_of(model, batch)._replace(memory=torch.full((4, 4, 4), 2.0))
    monkeypatch.setattr(inside, "evidence_of", lambda *_: evidence)
    assert draw_maps(model, batch).axes[2].images[1].get_clim() == (2, 3)


def test_attention_is_read_at_the_tokens_that_it_is_named_after(model: AnoPLe, batch: ImageBatch) -> None:
    attention = attention_of(model, batch)
    prompts, signal = model.model.prompt_learner().visual, model.model.prompt_learner.view_signal[-1]
    with torch.no_grad(), recorded_attention(model.model.clip.visual) as recorded:
        model.model.clip.visual(batch.image, prompts, signal.expand(4, -1))
    cls_token, patches, view = 0, slice(1, 1 + NUM_PATCHES), 1 + NUM_PATCHES
    for layer, weights in enumerate(recorded):
        assert_close(attention.patches[:, 0, layer].flatten(1), weights[:, cls_token, patches])
        assert_close(attention.patches[:, 1, layer].flatten(1), weights[:, view, patches])
        assert_close(attention.prompts[:, layer], weights[:, view + 1 :, view + 1 :])
    assert attention.prompts.shape[1:] == (DEPTH, 6, 6)  # C_v + C_t


def test_attention_depends_on_the_view_signal(model: AnoPLe, batch: ImageBatch) -> None:
    whole, crop = attention_of(model, batch).patches, attention_of(model, batch, view=0).patches
    assert torch.equal(whole, attention_of(model, batch, view=4).patches)
    assert not torch.allclose(whole[:, 1], crop[:, 1], rtol=1e-3)


def test_prompt_attention_has_a_matrix_per_layer_whose_rows_sum_to_one(model: AnoPLe, batch: ImageBatch) -> None:
    figure = draw_prompt_attention(model, batch, index=1)
    matrices = [axes.images[0].get_array() for axes in figure.axes[:DEPTH]]
    expected = attention_of(model, batch).prompts[1]
    for matrix, weights in zip(matrices, expected, strict=True):
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(matrix, weights / weights.sum(dim=-1, keepdim=True), rtol=1e-4)
    axes = figure.axes[0]
    labels = {label.get_text(): place for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert labels == {"$P^v$": 1, r"$P^{t\to v}$": 4}  # in the middle of three prompts each


def test_a_tower_without_prompts_has_no_attention_between_them(batch: ImageBatch, shots: torch.Tensor) -> None:
    model = finish(make_model(coupling="text_only"), shots)
    with pytest.raises(ValueError, match="model with coupling 'text_only' has no prompts in the visual tower to draw"):
        draw_prompt_attention(model, batch)


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        ({}, ["image", "CLS", "whole view $c_5$", "crop $c_2$"]),
        ({"multi_view": False}, ["image", "CLS", "whole view $c_1$"]),
        ({"view_signal": False}, ["image", "CLS"]),
    ],
)
def test_view_attention_shows_the_signals_that_there_are(
    batch: ImageBatch, shots: torch.Tensor, arguments: dict[str, bool], titles: list[str]
) -> None:
    model = finish(make_model(**arguments), shots)
    figure = draw_view_attention(model, batch, layer=2, local_view=1, max_rows=3)
    assert [axes.get_title() for axes in figure.axes[: len(titles)]] == titles
    heat = figure.axes[1].images[1].get_array()
    assert heat.mean() == pytest.approx(1)
    np.testing.assert_allclose(heat / heat.sum(), _normalized(attention_of(model, batch).patches[0, 0, 1]), rtol=1e-4)


@pytest.mark.parametrize("layer", [0, DEPTH + 1])
def test_a_layer_that_the_tower_does_not_have_is_refused(model: AnoPLe, batch: ImageBatch, layer: int) -> None:
    with pytest.raises(ValueError, match=f"layer must be between 1 and {DEPTH}, .*, got {layer}"):
        draw_view_attention(model, batch, layer=layer)


def _normalized(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum()
