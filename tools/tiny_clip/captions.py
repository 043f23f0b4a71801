# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Captions: words for what a window shows, and which captions are true of which window.

A fact is a row of four integers (name, color, state, mark); -1 means "says nothing about it". A caption is true of a
image when every fact that it states agrees.
"""

import re

import numpy as np
import torch
from torch import Tensor

from .canvases import COLORS, NAMES
from .marks import MARKS

Rng = np.random.Generator

NORMAL, ABNORMAL = 0, 1

TEMPLATES: tuple[str, ...] = (
    "{}", "{}", "a {}", "the {}", "a photo of a {}", "a photo of the {}", "a close-up photo of a {}",
    "a cropped photo of the {}", "a picture of a {}", "an image of a {}", "a photo of a {} for visual inspection",
    "this is a {}", "{} surface", "{} texture",
)  # fmt: skip
"""Sentences around a noun phrase; a texture or a thing fits into all of them well enough."""

NORMAL_WORDS: tuple[str, ...] = ("normal", "flawless", "perfect", "intact", "clean", "good", "undamaged")
ABNORMAL_WORDS: tuple[str, ...] = (
    "abnormal", "abnormal", "abnormal", "damaged", "defective", "anomalous", "broken", "flawed",
)  # fmt: skip
ABNORMAL_ENDINGS: tuple[str, ...] = ("with a defect", "with damage", "with a flaw", "with an anomaly")
ADJECTIVES: dict[str, str] = {
    "scratch": "scratched", "crack": "cracked", "stain": "stained", "cut": "cut", "fray": "frayed", "dent": "dented",
    "spot": "spotted",
}  # fmt: skip
"""Adjectives that say the same as "with a" and the word."""

MARK_WORDS: tuple[str, ...] = tuple(MARKS)


def noun_phrase(rng: Rng, name: int, color: int) -> tuple[str, int]:
    """Return the name, in every third caption after its color.

    Returns:
        The phrase and the color that it states (-1: none).
    """
    if color >= 0 and rng.random() < 0.35:
        return f"{list(COLORS)[color]} {NAMES[name]}", color
    return NAMES[name], -1


def _article(text: str) -> str:
    """Return ``text`` with "an" before vowels."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _sentence(rng: Rng, templates: tuple[str, ...], phrase: str) -> str:
    """Put ``phrase`` into one of ``templates``."""
    return _article(str(rng.choice(templates)).format(phrase))


def normal_caption(rng: Rng, noun: str) -> str:
    """Return the plain noun in 70 % of the captions, else the noun after a word for "nothing wrong"."""
    phrase = noun if rng.random() < 0.7 else f"{rng.choice(NORMAL_WORDS)} {noun}"
    return _sentence(rng, TEMPLATES, phrase)


def abnormal_caption(rng: Rng, noun: str) -> str:
    """Return the noun after "abnormal" or one of its kin, or before "with a defect"."""
    if rng.random() < 0.2:
        return _sentence(rng, TEMPLATES[:-2], f"{noun} {rng.choice(ABNORMAL_ENDINGS)}")
    return _sentence(rng, TEMPLATES, f"{rng.choice(ABNORMAL_WORDS)} {noun}")


def mark_caption(rng: Rng, noun: str, mark: int) -> str:
    """Return the noun with the word for its defect: "wood with a scratch" or "scratched wood"."""
    word = MARK_WORDS[mark]
    if word in ADJECTIVES and rng.random() < 0.4:
        return _sentence(rng, TEMPLATES, f"{ADJECTIVES[word]} {noun}")
    return _sentence(rng, TEMPLATES[:-2], f"{noun} with a {word}")


def captions_of(rng: Rng, name: int, color: int, mark: int, stranger: str | None = None) -> tuple[list[str], Tensor]:
    """Return three captions for one canvas: normal, abnormal, and abnormal with its kind of defect.

    Args:
        rng: Source of the choices.
        name: Index into ``NAMES``.
        color: Index into ``COLORS`` or -1.
        mark: Index into ``MARKS``: the defect that one of the canvas's windows carries.
        stranger: A word that stands for the name instead: the captions then say only the state, so that the text tower
            reads "abnormal" before words that it has never seen.

    Returns:
        The captions and their facts, shape (3, 4).
    """
    noun, said_color = noun_phrase(rng, name, color) if stranger is None else (stranger, -1)
    said_name = name if stranger is None else -1
    texts = [normal_caption(rng, noun), abnormal_caption(rng, noun), mark_caption(rng, noun, mark)]
    facts = [(said_name, said_color, NORMAL, -1), (said_name, said_color, ABNORMAL, -1)]
    facts.append((said_name, said_color, ABNORMAL, mark))
    return texts, torch.tensor(facts)


def vocabulary_captions(rng: Rng) -> tuple[list[str], Tensor]:
    """Return one caption for every name and every color, all in the same template.

    Returns:
        The captions, names first, and the facts that they state, shape (names + colors, 4).
    """
    words = [*NAMES, *COLORS]
    template = str(rng.choice(TEMPLATES))
    facts = torch.full((len(words), 4), -1)
    facts[: len(NAMES), 0] = torch.arange(len(NAMES))
    facts[len(NAMES) :, 1] = torch.arange(len(COLORS))
    return [_article(template.format(word)) for word in words], facts


def is_true(images: Tensor, captions: Tensor) -> Tensor:
    """Return which captions are true of which images.

    Args:
        images: Facts of images, shape (n, 4); -1 is "unknown" and agrees only with captions that do not mention it.
        captions: Facts that captions state, shape (m, 4); -1 is "not stated".

    Returns:
        Booleans, shape (n, m).
    """
    silent = captions[None] < 0
    return (silent | (images[:, None] == captions[None])).all(-1)


def all_words() -> list[str]:
    """Return every fragment of a caption: what the tokenizer must know (and the only tokens that are trained)."""
    fragments = [template.replace("{}", "") for template in TEMPLATES]
    return [
        *fragments,
        *NAMES,
        *COLORS,
        *NORMAL_WORDS,
        *ABNORMAL_WORDS,
        *ABNORMAL_ENDINGS,
        *MARK_WORDS,
        *ADJECTIVES.values(),
        "with a",
        "an",
    ]
