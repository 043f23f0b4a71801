# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Comparisons of models on the same shots, and reports on them."""

import webbrowser
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.pipeline.settings import add_arguments

from .terminal import ERROR, FINE, UsageError, say_error


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
    parser.add_argument("folders", nargs="*", type=Path, help="folders that anople compare or watch wrote")
    parser.add_argument("--output", type=Path | None, default=None, help="folder (default: 'report' in the first one)")
    parser.add_argument("--metrics", nargs="+", type=str, help="metrics to report, or 'all'")
    parser.add_argument("--open", type=bool, default=False, help="whether to open the page in a browser")
    parser.add_argument("--verify", type=Path | None, default=None, help="journal whose lines are to be checked")


def report(options: Namespace) -> int:
    """Turn a comparison into tables, plots and gaps, the drift of a watch into charts, or check a journal."""
    if options.verify is not None:
        return _verify(options.verify)
    if not options.folders:
        msg = "Give folders that anople compare or watch wrote, or --verify journal.jsonl."
        raise UsageError(msg)
    drifts = [folder for folder in options.folders if (folder / "drift.jsonl").is_file()]
    for folder in drifts:
        from anople_anomalib.report.drift import write_drift

        page = write_drift(folder, options.output or folder / "report")
        print(f"Wrote {page}.")
    if folders := [folder for folder in options.folders if folder not in drifts]:
        page = _report_comparison(folders, options)
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return FINE


def _report_comparison(folders: list[Path], options: Namespace) -> Path:
    """Write the report of a comparison, and return its page."""
    from anople_anomalib.report.page import DEFAULT_METRICS, write_report
    from anople_anomalib.report.results import load_results

    results = load_results(folders)
    page = write_report(results, options.output or folders[0] / "report", options.metrics or DEFAULT_METRICS)
    print(f"Wrote {page}, and beside it report.md, values.csv (every number) and cells.csv (the tables' cells).")
    return page


def _verify(journal: Path) -> int:
    """Say whether a journal is as it was written."""
    from anople_anomalib.deployment.journal import check

    checked = check(journal)
    if checked.fault:
        say_error(f"{journal}: {checked}")
        return ERROR
    print(f"{journal}: {checked}")
    return FINE
