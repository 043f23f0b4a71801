# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Prompt strings of the two states, normal and abnormal (equations (1) and (15) of the AnoPLe paper)."""

from collections.abc import Sequence

COMPOSITIONAL = "compositional"
"""The reserved ``state_word`` that stands for WinCLIP's ensemble of state templates (Table 4, row "CPE")."""

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
CLASS_WORDS = {
    # VisA
    "chewinggum": "chewing gum",
    "macaroni1": "macaroni",
    "macaroni2": "macaroni",
    "pcb": "printed circuit board",
    "pcb1": "printed circuit board",
    "pcb2": "printed circuit board",
    "pcb3": "printed circuit board",
    "pcb4": "printed circuit board",
    # MPDD
    "bracket_black": "black bracket",
    "bracket_brown": "brown bracket",
    "bracket_white": "white bracket",
    # KolektorSDD, of plastic parts of electrical commutators
    "kolektor": "electrical commutator",
    # MVTec AD 2
    "wallplugs": "wall plugs",
    # Real-IAD
    "audiojack": "audio jack",
    "terminalblock": "terminal block",
    "transistor1": "transistor",
    "vcpill": "vitamin C pill",
    "woodstick": "wooden stick",
}
"""Words for categories whose names a text encoder would not know; for all others underscores become blanks."""

OBJECT = "object"
"""Word for what has no name, or only a number, as the categories of BTech (``"01"``) have."""

ABNORMAL_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")


def clean_class_names(class_names: str | Sequence[str]) -> list[str]:
    """Turn class names of a data set, such as ``"metal_nut"``, into different ones of words, ``["metal nut"]``.

    Raises:
        ValueError: If there is no name or a name is empty.
    """
    words = [" ".join(name.replace("_", " ").split()) for name in _strings(class_names)]
    if not words or not all(words):
        msg = f"class_names must be one or more non-empty names, got {class_names!r}."
        raise ValueError(msg)
    return list(dict.fromkeys(words))


def check_class_names(class_names: str | Sequence[str] | None) -> None:
    """Refuse what :func:`clean_class_names` refuses; ``None`` stands for names that are not known yet."""
    if class_names is not None:
        clean_class_names(class_names)


def words_of_categories(categories: str | Sequence[str]) -> list[str]:
    """Find words for the categories of a data set.

    Args:
        categories: One category or several, e.g. ``["pcb1", "metal_nut"]``.

    Returns:
        Their words from :data:`CLASS_WORDS`, else their names; :data:`OBJECT` for a name without a letter. Two
        categories may have the same words.

    Example:
        >>> words_of_categories(["pcb1", "metal_nut", "01"])
        ['printed circuit board', 'metal_nut', 'object']
    """
    names = [categories] if isinstance(categories, str) else list(categories)
    named = [name if any(map(str.isalpha, name)) or not name.strip("_ ") else OBJECT for name in names]
    return [CLASS_WORDS.get(name.lower(), name) for name in named]


def state_templates(state_word: str | Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the templates of the normal and the abnormal state, each with one ``{}`` for the class name.

    Args:
        state_word: The word before the class name in the abnormal prompt; several words for their ensemble; or
            ``"compositional"`` for WinCLIP's templates of both states.
    """
    if state_word == COMPOSITIONAL:
        return NORMAL_STATES, ABNORMAL_STATES
    return ("{}",), tuple(f"{word.strip()} {{}}" for word in _strings(state_word))


def prompt_texts(class_names: Sequence[str], state_word: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of the normal prompts e+ = [class] and the abnormal prompts e- = [abnormal][class] (1).

    Every template of :func:`state_templates` with every class name of :func:`clean_class_names`.

    Example:
        >>> prompt_texts(["bottle"], "abnormal")
        (['bottle'], ['abnormal bottle'])
    """
    normal, abnormal = state_templates(state_word)
    return (
        [template.format(name) for name in class_names for template in normal],
        [template.format(name) for name in class_names for template in abnormal],
    )


def _strings(value: str | Sequence[str]) -> list[str]:
    """Return one string or several as a list, which is empty if the value is something else."""
    values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
    return values if all(isinstance(string, str) for string in values) else []
