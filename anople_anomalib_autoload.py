# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What Python 3.15 and later call at their start (PEP 829), named by the ``.start`` file beside this one.

Older Pythons run the import line of the ``.pth`` file beside it instead; 3.15 to 3.17 would, too, without the
``.start`` file, and from 3.18 on it is ignored.
"""


def install() -> None:
    """Run the import line of the ``.pth`` file: the finder that waits for anomalib is written there, once."""
    with open(__file__.removesuffix("py") + "pth", encoding="utf-8") as file:  # noqa: PTH123  # pathlib takes longer
        exec(file.read())  # noqa: S102  # a file of this package
