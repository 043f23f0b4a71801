# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Turn the results of a comparison into tables, plots and a list of missing numbers.

Usage:
    anople report runs/textures
"""

import webbrowser
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from .terminal import FINE


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("folders", nargs="+", type=Path, help="folders that anople compare wrote")
    parser.add_argument("--output", type=Path | None, default=None, help="folder (default: 'report' in the first one)")
    parser.add_argument("--metrics", nargs="+", type=str, help="metrics to report, or 'all'")
    parser.add_argument("--open", type=bool, default=False, help="whether to open the page in a browser")


def run(options: Namespace) -> int:
    """Write a report."""
    from anople_anomalib.report.measured import load_results
    from anople_anomalib.report.writing import DEFAULT_METRICS, write_report

    results = load_results(options.folders)
    output = options.output or options.folders[0] / "report"
    report = write_report(results, output, options.metrics or list(DEFAULT_METRICS))
    print(f"Wrote {report}, and beside it report.md, values.csv (every number) and cells.csv (the tables' cells).")
    if options.open:
        webbrowser.open(report.resolve().as_uri())
    return FINE
