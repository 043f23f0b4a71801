# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Commands and programs in Markdown."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = {"bash", "console", "sh", "shell"}
_PROGRAM_IN_TEXT = re.compile(r"python (?:benchmarks|tools)/\S+\.py")


def fenced(text: str) -> list[tuple[str, str]]:
    """Language and content of the blocks between fences."""
    return _FENCE.findall(text)


def indented(text: str) -> Iterator[str]:
    """Blocks that are indented by four spaces, between blank lines."""
    for block in re.split(r"\n\s*\n", _FENCE.sub("", text)):
        lines = block.strip("\n").splitlines()
        if lines and all(line.startswith("    ") for line in lines):
            yield "\n".join(line[4:] for line in lines)


def commands(page: Path) -> list[list[str]]:
    """Commands of a page by their words: of its blocks, and those of programs of the repository in its text."""
    text = page.read_text(encoding="utf-8")
    blocks = [*indented(text), *(content for language, content in fenced(text) if language in _SHELL)]
    prose = re.sub(r"\s+", " ", _FENCE.sub("", text))
    quoted = [quote for quote in re.findall(r"`([^`]+)`", prose) if _PROGRAM_IN_TEXT.match(quote)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()] + quoted
    parts = [part for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def programs(page: Path) -> list[str]:
    """Python programs of a page."""
    return [content for language, content in fenced(page.read_text(encoding="utf-8")) if language == "python"]
