# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Words for anomalies: the suffixes of the manual anomaly prompts.

The words for MVTec AD and VisA are those that the authors' program lists, spelled as there; those for SampleTextures
are the names of its kinds of damage.
"""

from collections.abc import Sequence

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
"""By category, what an object is "with"."""

OTHERS = {"capsule": ("{} squeezed with compression",)}
"""By category, templates of another form."""


def customized(category: str) -> tuple[str, ...]:
    """Return the templates for the anomalies of a category.

    Args:
        category: A category of a data set, or its name in words, such as ``"metal_nut"`` or ``"metal nut"``.

    Returns:
        Templates with one ``{}`` for the class name; none for a category that is not listed.

    Example:
        >>> customized("screw")
        ('{} with manipulated front', '{} with scratch neck', '{} with scratch head')
    """
    name = category.strip().lower().replace(" ", "_")
    return (*(f"{{}} with {what}" for what in WITH.get(name, ())), *OTHERS.get(name, ()))


def templates_of(suffixes: Sequence[str]) -> tuple[str, ...]:
    """Return templates of a user's own words.

    Args:
        suffixes: What follows the class name, such as ``"with crack"``, or a whole template such as ``"cracked {}"``.

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
