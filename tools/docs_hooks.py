# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Hooks of the documentation's build, named in ``mkdocs.yml``."""

import re


def on_page_content(html: str, **_: object) -> str:
    """Show a docstring's roles, as in ``:class:`name```, as the name alone: Markdown does not know them."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)
