# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Checks of arguments, their form as plain data, and the value that was probably meant."""

import difflib
from collections.abc import Callable, Iterable
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard


def as_list(value: Any) -> Any:
    """Turn a sequence into a list, plain data for a checkpoint's hyper-parameters; leave anything else alone."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return the known name that is most like a word as ``" (did you mean 'brick'?)"``, or nothing."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), names, n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


class Rule(NamedTuple):
    """Values that an option may have."""

    allows: Callable[[Any], bool]  # whether a value is allowed
    text: str  # the allowed values in words, after "must be"


def check(rule: Rule, **values: object) -> None:
    """Check arguments by their names; one that the rule does not allow is a ``ValueError``."""
    for name, value in values.items():
        if not rule.allows(value):
            msg = f"{name} must be {rule.text}, got {value!r}."
            raise ValueError(msg)


def _is_integer(value: object, minimum: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum


def integer(minimum: int) -> Rule:
    """Allow integers from a minimum on."""
    return Rule(lambda value: _is_integer(value, minimum), f"an integer, {minimum} or more")


def _word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def choice(*words: str) -> Rule:
    """Allow some words."""
    return Rule(lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}")


def either(word: str, rule: Rule) -> Rule:
    """Allow a word beside the values of another rule."""
    return Rule(lambda value: value == word or rule.allows(value), f"{rule.text}, or {word!r}")


def optional(rule: Rule, meaning: str) -> Rule:
    """Allow ``None``, which stands for something, beside the values of another rule."""
    return Rule(lambda value: value is None or rule.allows(value), f"{rule.text}, or None for {meaning}")


FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
RATE = Rule(lambda value: _is_finite(value) and value >= 0, "a finite number, 0 or more")
POSITIVE = Rule(lambda value: _is_finite(value) and value > 0, "a finite number above 0")
SHARE = Rule(lambda value: _is_finite(value) and 0 <= value <= 1, "between 0 and 1")
POSITIVE_SHARE = Rule(lambda value: _is_finite(value) and 0 < value <= 1, "above 0 and at most 1")
PART = Rule(lambda value: _is_finite(value) and 0 <= value < 1, "0 for none or a share of the variance below 1")
NAME = Rule(_word, "a name")
FILE = Rule(lambda value: _word(value) or isinstance(value, Path), "a name or a path")
LAYERS = Rule(
    lambda value: isinstance(value, list | tuple) and bool(value) and all(_is_integer(each, 1) for each in value),
    "layer numbers, 1 or more",
)
WORDS = Rule(
    lambda value: _word(value) or (isinstance(value, list | tuple) and bool(value) and all(map(_word, value))),
    "one or more non-empty words, or 'compositional'",
)
K_SHOT = optional(integer(1), "all images")
