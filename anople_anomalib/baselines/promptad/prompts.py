# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Semantic concatenation: learnable normal prompts, and the anomaly prompts that are made from them.

The words for the anomalies of MVTec AD and VisA are those that the authors' program lists, spelled as there; those for
SampleTextures are the names of its kinds of damage.

Paper: Li et al., "PromptAD", CVPR 2024. The numbers of the equations are this package's own, see :mod:`.torch_model`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import repeat
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.clip import PromptedTextTower

_CONTEXT_STD = 0.02  # of the initial prompts and suffixes, as in CoOp


GENERIC = (
    "damaged {}",
    "flawed {}",
    "abnormal {}",
    "imperfect {}",
    "blemished {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
)
"""Templates for objects of any kind."""

_PCB = ("bent", "scratch", "missing", "melt")
_MACARONI = ("color spot", "small chip around edge", "small scratches", "breakage", "cracks")

WITH: dict[str, tuple[str, ...]] = {
    # MVTec AD
    "bottle": ("large breakage", "small breakage", "contamination"),
    "cable": ("bent wire", "missing part", "missing wire", "cut", "poke"),
    "capsule": ("crack", "faulty imprint", "poke", "scratch"),
    "carpet": ("hole", "color stain", "metal contamination", "thread residue", "thread", "cut"),
    "grid": ("breakage", "thread residue", "thread", "metal contamination", "glue", "a bent shape"),
    "hazelnut": ("crack", "cut", "hole", "print"),
    "leather": ("color stain", "cut", "fold", "glue", "poke"),
    "metal_nut": ("a bent shape", "color stain", "a flipped orientation", "scratch"),
    "pill": ("color stain", "contamination", "crack", "faulty imprint", "scratch", "abnormal type"),
    "screw": ("manipulated front", "scratch neck", "scratch head"),
    "tile": ("crack", "glue strip", "gray stroke", "oil", "rough surface"),
    "toothbrush": ("defect", "anomaly"),
    "transistor": ("bent lead", "cut lead", "damage", "misplaced transistor"),
    "wood": ("color stain", "hole", "scratch", "liquid"),
    "zipper": (
        "broken teeth",
        "fabric border",
        "defect fabric",
        "broken fabric",
        "split teeth",
        "squeezed teeth",
    ),
    # VisA
    "candle": (
        "melded wax",
        "foreign particals",
        "extra wax",
        "chunk of wax missing",
        "weird candle wick",
        "damaged corner of packaging",
        "different colour spot",
    ),
    "capsules": ("scratch", "discolor", "misshape", "leak", "bubble"),
    "cashew": ("breakage", "small scratches", "burnt", "stuck together", "spot"),
    "chewinggum": ("corner missing", "scratches", "chunk of gum missing", "colour spot", "cracks"),
    "fryum": ("breakage", "scratches", "burnt", "colour spot", "fryum stuck together"),
    "macaroni1": _MACARONI,
    "macaroni2": _MACARONI,
    "pcb1": _PCB,
    "pcb2": _PCB,
    "pcb3": _PCB,
    "pcb4": ("scratch", "extra", "missing", "wrong place", "damage", "burnt", "dirt"),
    "pipe_fryum": ("breakage", "small scratches", "burnt", "stuck together", "colour spot", "cracks"),
    # SampleTextures
    "brick": ("crack", "efflorescence", "hole", "moss", "open joint", "spall", "stain"),
    "grass": ("burn", "cable", "fungus", "hole", "litter", "stones"),
    "gravel": ("cable", "hole", "lime", "litter", "oil", "weeds"),
}
"""By category, the words after "with"."""

OTHERS = {"capsule": ("{} squeezed with compression",)}
"""By category, templates of another form."""


class PromptFeatures(NamedTuple):
    """Embeddings of the prompts of one head; not normalized."""

    normal: torch.Tensor  # normal prompts (NP), shape ``(N, D)``
    manual: torch.Tensor  # manual anomaly prompts (MAP), shape ``(M, D)``
    learned: torch.Tensor  # learnable anomaly prompts (LAP), shape ``(L, D)``

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


def customized(category: str) -> tuple[str, ...]:
    """Return templates, with one ``{}`` for the name, for the anomalies of a category, ``"metal_nut"``; none of others.

    Example:
        >>> customized("screw")
        ('{} with manipulated front', '{} with scratch neck', '{} with scratch head')
    """
    name = category.strip().lower().replace(" ", "_")
    return (*(f"{{}} with {flaw}" for flaw in WITH.get(name, ())), *OTHERS.get(name, ()))


def templates_of(suffixes: Sequence[str]) -> tuple[str, ...]:
    """Return templates of a user's own words.

    Args:
        suffixes: Words after the class name, such as ``"with crack"``, or a whole template such as ``"cracked {}"``.

    Returns:
        Templates with one ``{}`` for the class name.

    Raises:
        ValueError: If there is no word, or a template holds the class name more than once or something else in braces.
    """
    templates = tuple(suffix.strip() if "{" in suffix else f"{{}} {suffix.strip()}" for suffix in suffixes)
    for suffix, template in zip(suffixes, templates, strict=True):
        if not suffix.strip() or template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
            msg = f"anomalies must be words such as 'with crack', or hold one {{}} for the class name, got {suffix!r}."
            raise ValueError(msg)
    return templates
