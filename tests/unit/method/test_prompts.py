# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The prompt learner: the couplings of Table 3 (a), layer by layer."""

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.config import COUPLINGS
from anople_anomalib.method.prompts import PromptLearner

D_T, D_V, C_T, C_V, J = 5, 7, 2, 3, 4

# coupling -> (own text prompts, own visual prompts, f_{v->t}, f_{t->v})
PARTS = {
    "bidirectional": (True, True, True, True),
    "text_to_image": (True, True, False, True),
    "image_to_text": (True, True, True, False),
    "independent": (True, True, False, False),
    "text_only": (True, False, False, False),
    "image_only": (False, True, False, False),
}


def learner_of(coupling: str) -> PromptLearner:
    return PromptLearner(D_T, D_V, C_T, C_V, prompt_depth=J, coupling=coupling)


def test_every_row_of_the_table_is_there() -> None:
    assert set(COUPLINGS) == set(PARTS)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_coupling_layer_by_layer(coupling: str) -> None:
    """Equations (5) and (6): [P^t_j, P^{v->t}_j] and [P^v_j, P^{t->v}_j]."""
    own_text, own_visual, visual_to_text, text_to_visual = PARTS[coupling]
    learner = learner_of(coupling)
    prompts = learner()
    assert prompts.text.shape == (J, C_T * own_text + C_V * visual_to_text, D_T)
    assert prompts.visual.shape == (J, C_V * own_visual + C_T * text_to_visual, D_V)
    for j in range(J):
        text = [*learner.text_prompts[j]] if own_text else []
        visual = [*learner.visual_prompts[j]] if own_visual else []
        if visual_to_text:
            f = learner.visual_to_text
            text += [f.weight @ prompt + f.bias for prompt in learner.visual_prompts[j]]
        if text_to_visual:
            f = learner.text_to_visual
            visual += [f.weight @ prompt + f.bias for prompt in learner.text_prompts[j]]
        if text:
            assert_close(prompts.text[j], torch.stack(text))
        if visual:
            assert_close(prompts.visual[j], torch.stack(visual))


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("tower", ["text", "visual"])
def test_each_tower_teaches_what_reaches_it(coupling: str, tower: str) -> None:
    own_text, own_visual, visual_to_text, text_to_visual = PARTS[coupling]
    learner = learner_of(coupling)
    (getattr(learner(), tower) * torch.randn(())).sum().backward()
    taught = {
        name.split(".")[0]
        for name, parameter in learner.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    expected = {
        "text": {"text_prompts": own_text, "visual_prompts": visual_to_text, "visual_to_text": visual_to_text},
        "visual": {"visual_prompts": own_visual, "text_prompts": text_to_visual, "text_to_visual": text_to_visual},
    }[tower]
    assert taught == {name for name, is_taught in expected.items() if is_taught}


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_only_the_projections_of_the_coupling_exist(coupling: str) -> None:
    own_text, own_visual, visual_to_text, text_to_visual = PARTS[coupling]
    sizes = {name: parameter.numel() for name, parameter in learner_of(coupling).named_parameters()}
    assert sizes["text_prompts"] == J * C_T * D_T * own_text
    assert sizes["visual_prompts"] == J * C_V * D_V * own_visual
    assert ("visual_to_text.weight" in sizes) == visual_to_text
    assert ("text_to_visual.weight" in sizes) == text_to_visual


def test_prompts_of_different_layers_differ() -> None:
    learner = learner_of("bidirectional")
    assert len(torch.unique(learner.text_prompts.flatten(1), dim=0)) == J
    assert len(torch.unique(learner.visual_prompts.flatten(1), dim=0)) == J


def test_view_signal_has_one_row_per_view() -> None:
    assert PromptLearner(D_T, D_V, num_views=5).view_signal.shape == (5, D_V)
    assert PromptLearner(D_T, D_V, num_views=0).view_signal is None


def test_zero_length_prompts_are_empty() -> None:
    prompts = PromptLearner(D_T, D_V, 0, 0, prompt_depth=J)()
    assert prompts.text.shape == (J, 0, D_T)
    assert prompts.visual.shape == (J, 0, D_V)
