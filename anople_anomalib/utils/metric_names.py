# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Names of metrics where there are several categories, as an evaluator logs them and a report reads them."""

_SEPARATOR = "/"  # bottle/image_AUROC


def metric_name(category: str, metric: str) -> str:
    """Name one category's metric where there are several categories."""
    return f"{category}{_SEPARATOR}{metric}"


def split_metric_name(name: str) -> tuple[str | None, str]:
    """Return category and metric of a name; no category is a mean over categories, or there is one category."""
    category, _, metric = name.rpartition(_SEPARATOR)
    return category or None, metric
