# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Semantic concatenation: learnable normal prompts, and the anomaly prompts that are made from them.

Paper: Li et al., "PromptAD", CVPR 2024. The numbers of the equations are this package's own, see :mod:`.torch_model`.
"""

from typing import NamedTuple

import torch
from einops import repeat
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import PromptedTextTower

_CONTEXT_STD = 0.02  # of the initial prompts and suffixes, as in CoOp


class PromptFeatures(NamedTuple):
    """Embeddings of the prompts of one head; not normalized.

    Attributes:
        normal: Normal prompts (NP), shape ``(N, D)``.
        manual: Manual anomaly prompts (MAP), shape ``(M, D)``.
        learned: Learnable anomaly prompts (LAP), shape ``(L, D)``.
    """

    normal: torch.Tensor
    manual: torch.Tensor
    learned: torch.Tensor

    @property
    def anomalies(self) -> torch.Tensor:
        """All anomaly prompts, of length 1, shape ``(M + L, D)``."""
        return F.normalize(torch.cat([self.manual, self.learned]), dim=-1)

    @property
    def prototypes(self) -> torch.Tensor:
        """(w^n, w^a): the means of normal and of anomaly prompts, of length 1, shape ``(2, D)``."""
        anomalous = torch.cat([self.manual, self.learned])
        return F.normalize(torch.stack([self.normal.mean(dim=0), anomalous.mean(dim=0)]), dim=-1)


class PromptHead(nn.Module):
    """The learnable prompts of one head, equations (1) to (3).

    Args:
        width: Width d_t of the text tower.
        num_prompts: Number of different normal contexts P.
        context_length: Number E_N of learnable tokens before the class name.
        num_suffixes: Number of different learnable suffixes A.
        suffix_length: Number E_A of learnable tokens of a suffix.
    """

    def __init__(
        self, width: int, num_prompts: int, context_length: int, num_suffixes: int, suffix_length: int
    ) -> None:
        super().__init__()
        self.contexts = nn.Parameter(_CONTEXT_STD * torch.randn(num_prompts, context_length, width))  # P
        self.suffixes = nn.Parameter(_CONTEXT_STD * torch.randn(num_suffixes, suffix_length, width))  # A

    def forward(self, tower: PromptedTextTower, names: torch.Tensor, anomalies: torch.Tensor) -> PromptFeatures:
        """Encode all prompts.

        Args:
            tower: The text tower.
            names: Token numbers of the class names, shape ``(c, L)``.
            anomalies: Token numbers of the class names with their manual anomaly words, shape ``(m, L)``.

        Returns:
            Embeddings of ``N = n c`` normal, ``M = n m`` manual and ``L = n l c`` learnable anomaly prompts, for n
            contexts and l suffixes.
        """
        contexts, suffixes = self.contexts, self.suffixes
        n, c, m, s = len(contexts), len(names), len(anomalies), len(suffixes)
        return PromptFeatures(
            normal=tower(names.repeat(n, 1), [repeat(contexts, "n e d -> (n c) e d", c=c)]),  # (1)
            manual=tower(anomalies.repeat(n, 1), [repeat(contexts, "n e d -> (n m) e d", m=m)]),  # (2)
            learned=tower(  # (3)
                names.repeat(n * s, 1),
                [repeat(contexts, "n e d -> (n s c) e d", s=s, c=c)],
                repeat(suffixes, "s e d -> (n s c) e d", n=n, c=c),
            ),
        )
