# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Defaults that users and measurements rely on, in one table: whoever changes one changes it here, too."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data import FewShot
from anople_anomalib.method.anomaly_simulation import PixelAnomalySimulator, simulate_latent_anomalies

DEFAULTS: dict[Callable, dict[str, Any]] = {
    AnoPLe: {
        "preset": "paper",
        "backbone": None,
        "pretrained": None,
        "k_shot": 1,
        "seed": 0,
        "class_names": None,
        "prompts": None,
        "training": None,
        "memory": None,
        "tiles": None,
        "roi": None,
        "pre_processor": True,
        "post_processor": True,
        "evaluator": True,
        "visualizer": True,
    },
    FewShot: {"categories": None, "k_shot": 1, "seed": 0, "samples": None},
    PixelAnomalySimulator: {"anomaly_source_path": "noise", "probability": 0.5},
    simulate_latent_anomalies: {"sigma": 0.015},
}


@pytest.mark.parametrize(
    ("function", "name", "default"),
    [(function, name, default) for function, defaults in DEFAULTS.items() for name, default in defaults.items()],
)
def test_defaults(function: Callable, name: str, default: Any) -> None:
    assert inspect.signature(function).parameters[name].default == default


def test_the_model_has_these_arguments_alone() -> None:
    assert [*inspect.signature(AnoPLe).parameters] == [*DEFAULTS[AnoPLe]]


@pytest.mark.parametrize("function", DEFAULTS)
def test_a_mistyped_argument_is_an_error(function: Callable) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
