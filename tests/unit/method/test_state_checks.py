# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Weights and losses are checked before they do harm."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.state_checks import check_names, check_weights, require_finite

State = dict[str, torch.Tensor]


class Small(nn.Module):
    """A layer, a memory bank and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.memory_bank = MemoryBank(4)
        self.register_buffer("is_fitted", torch.tensor(data=False))


def changed(name: str, value: object) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed("layer.bias", torch.zeros(3)), r"layer.bias has shape \(3,\) instead of \(2,\)"),
        (changed("layer.bias", torch.tensor([0, float("nan")])), "layer.bias holds numbers that are not finite"),
        (changed("layer.bias", torch.tensor([0, float("inf")])), "layer.bias holds numbers that are not finite"),
        (changed("layer.bias", torch.zeros(2, dtype=torch.long)), "layer.bias is of kind torch.int64"),
        (changed("layer.bias", torch.zeros(2, dtype=torch.cfloat)), "layer.bias is of kind torch.complex64"),
        (changed("layer.bias", [0.0, 0.0]), "layer.bias is not a plain tensor"),
        (changed("layer.bias", torch.zeros(2, device="meta")), "layer.bias is not a plain tensor"),
        (changed("layer.bias", torch.zeros(2).to_sparse()), "layer.bias is not a plain tensor"),
        (changed("memory_bank.features", torch.zeros(5, 3)), r"memory_bank.features has shape \(5, 3\)"),
        (changed("memory_bank.features", torch.zeros(1, 4).expand(10**9, 4)), "memory_bank.features .*not contiguous"),
        (changed("is_fitted", torch.tensor(1.0)), "is_fitted is of kind torch.float32 instead of torch.bool"),
        (changed("layer.other", torch.zeros(2)), "layer.other is not part of it"),
        (lambda state: {name: value for name, value in state.items() if name != "is_fitted"}, "is_fitted is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Callable[[State], State], problem: str) -> None:
    module = Small()
    with pytest.raises(ValueError, match=rf"^The weights do not fit this Small \({problem}.*\): build the model with"):
        check_weights(module, change(module.state_dict()))


def test_weights_that_fit_pass() -> None:
    module = Small()
    state = changed("memory_bank.features", torch.zeros(7, 4))(module.state_dict())
    check_weights(module, state)
    check_weights(module, {name: value.half() if name.startswith("layer") else value for name, value in state.items()})


def test_names_may_differ_where_loading_is_not_strict() -> None:
    module = Small()
    check_weights(module, {"layer.bias": torch.zeros(2), "other": torch.zeros(1)}, strict=False)
    with pytest.raises(ValueError, match="has shape"):
        check_weights(module, {"layer.bias": torch.zeros(9)}, strict=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stops_a_training_run(value: float) -> None:
    good = {"pixel_loss": torch.tensor(1.0), "count": torch.tensor(3)}
    require_finite(good, where="The losses are")
    with pytest.raises(FloatingPointError, match=r"^The losses are no longer finite \(image_loss\): lower prompt_lr"):
        require_finite({**good, "image_loss": torch.tensor(value)}, where="The losses are")


def test_a_part_is_checked_with_the_whole() -> None:
    check_weights(Small(), {}, prefix="model.")
    state = {f"model.{name}": value for name, value in Small().state_dict().items()}
    check_names(Small(), {**state, "other": torch.zeros(1)}, "model.")
    with pytest.raises(ValueError, match="is_fitted is missing"):
        check_names(Small(), {name: value for name, value in state.items() if "fitted" not in name}, "model.")
