# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anople-report``, or ``python -m anople_anomalib.report``."""

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from .measured import load_results
from .writing import DEFAULT_METRICS, write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report.

    Args:
        arguments: Arguments of the command line; ``None`` for the process's own.

    Returns:
        0, or 1 after an error message.
    """
    parser = ArgumentParser(
        prog="anople-report",
        description="Turn the results of `anomalib fewshot` into tables, plots and a list of what is missing.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders that `anomalib fewshot` wrote")
    parser.add_argument("--output", type=Path, help="folder of the report (default: 'report' in the first folder)")
    parser.add_argument("--metrics", nargs="+", default=list(DEFAULT_METRICS), help="metrics to report, or 'all'")
    parser.add_argument("--open", type=bool, default=False, help="whether to open the page in a browser")
    options = parser.parse_args(arguments)
    try:
        results = load_results(options.folders)
        report = write_report(results, options.output or options.folders[0] / "report", options.metrics)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Wrote {report}, and beside it report.md, values.csv (every number) and cells.csv (the tables' cells).")
    if options.open:
        webbrowser.open(report.resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
