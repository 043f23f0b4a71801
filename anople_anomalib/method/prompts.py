# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Learnable prompts of both modalities and their coupling (section 3.2 of the AnoPLe paper)."""

from typing import NamedTuple

import torch
from torch import nn

_PROMPT_STD = 0.02  # of the initial prompts, as in CoOp and MaPLe


class Prompts(NamedTuple):
    """Prompts of every prompted layer."""

    text: torch.Tensor  # prompts [P^t_j, P^{v->t}_j] of the text tower (5), shape ``(J, C, text width)``
    visual: torch.Tensor  # prompts [P^v_j, P^{t->v}_j] of the visual tower (6), shape ``(J, C', visual width)``


class PromptLearner(nn.Module):
    """Deep prompts P^t and P^v, the projections f_{v->t} and f_{t->v} between them, and the view signal c.

    Every layer has prompts of its own; the projections are shared by all layers.

    Args:
        text_width: Width d_t of the text tower.
        visual_width: Width d_v of the visual tower.
        text_context_length: Number C_t of text prompts in a layer, at least 0.
        visual_context_length: Number C_v of visual prompts in a layer, at least 0.
        prompt_depth: Number J of prompted layers, at least 1.
        coupling: One of :data:`.config.COUPLINGS`: which projections exist, and which modality has prompts of its own.
        num_views: Number N + 1 of views that the signal tells apart; 0 for no view signal.
    """

    def __init__(
        self,
        text_width: int,
        visual_width: int,
        text_context_length: int = 3,
        visual_context_length: int = 3,
        prompt_depth: int = 9,
        coupling: str = "bidirectional",
        num_views: int = 5,
    ) -> None:
        super().__init__()
        text_length = 0 if coupling == "image_only" else text_context_length
        visual_length = 0 if coupling == "text_only" else visual_context_length
        self.text_prompts = _prompt(prompt_depth, text_length, text_width)  # P^t
        self.visual_prompts = _prompt(prompt_depth, visual_length, visual_width)  # P^v
        self.visual_to_text = (  # f_{v->t}
            nn.Linear(visual_width, text_width) if coupling in {"bidirectional", "image_to_text"} else None
        )
        self.text_to_visual = (  # f_{t->v}
            nn.Linear(text_width, visual_width) if coupling in {"bidirectional", "text_to_image"} else None
        )
        self.view_signal = _prompt(num_views, visual_width) if num_views else None  # c

    def forward(self) -> Prompts:
        """Couple the prompts of both modalities, equations (5) and (6).

        Returns:
            The prompts of every prompted layer.
        """
        text: list[torch.Tensor] = [self.text_prompts]
        visual: list[torch.Tensor] = [self.visual_prompts]
        if self.visual_to_text is not None:
            text.append(self.visual_to_text(self.visual_prompts))  # P^{v->t}
        if self.text_to_visual is not None:
            visual.append(self.text_to_visual(self.text_prompts))  # P^{t->v}
        return Prompts(torch.cat(text, dim=1), torch.cat(visual, dim=1))


class ConstantPrompts(nn.Module):
    """The visual prompts and the view signal of a trained model; no text prompts, no projections.

    Args:
        learner: The trained prompts.
    """

    @torch.no_grad()
    def __init__(self, learner: PromptLearner) -> None:
        super().__init__()
        signal = learner.view_signal
        self.register_buffer("visual", learner().visual.clone())
        self.register_buffer("view_signal", None if signal is None else signal.detach().clone())
        self.visual: torch.Tensor
        self.view_signal: torch.Tensor | None

    def forward(self) -> Prompts:
        """Return the prompts of every prompted layer; those of the text tower are empty."""
        return Prompts(text=self.visual[:, :0], visual=self.visual)


def _prompt(*shape: int) -> nn.Parameter:
    return nn.Parameter(_PROMPT_STD * torch.randn(shape))
