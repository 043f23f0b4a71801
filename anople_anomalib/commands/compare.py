# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Comparisons of models on the same shots, and reports on them."""

import webbrowser
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.pipeline.settings import add_arguments

from .terminal import FINE


def compare_options(parser: ArgumentParser) -> None:
    """Add the options of ``compare``."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the comparison")
    add_arguments(parser)


def compare(options: Namespace) -> int:
    """Compare models on the same shots, as anomalib fewshot does."""
    if not options.config.is_file():
        msg = f"There is no file '{options.config}': check --config."
        raise FileNotFoundError(msg)
    from anople_anomalib.pipeline import FewShotPipeline

    FewShotPipeline().run(options)
    return FINE


def report_options(parser: ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.add_argument("folders", nargs="+", type=Path, help="folders that anople compare wrote")
    parser.add_argument("--output", type=Path | None, default=None, help="folder (default: 'report' in the first one)")
    parser.add_argument("--metrics", nargs="+", type=str, help="metrics to report, or 'all'")
    parser.add_argument("--open", type=bool, default=False, help="whether to open the page in a browser")


def report(options: Namespace) -> int:
    """Turn the results of a comparison into tables, plots and a list of missing numbers."""
    from anople_anomalib.report.page import DEFAULT_METRICS, write_report
    from anople_anomalib.report.results import load_results

    results = load_results(options.folders)
    page = write_report(results, options.output or options.folders[0] / "report", options.metrics or DEFAULT_METRICS)
    print(f"Wrote {page}, and beside it report.md, values.csv (every number) and cells.csv (the tables' cells).")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return FINE
