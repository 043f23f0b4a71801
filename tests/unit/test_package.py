# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The names of the package itself."""

import pytest

import anople_anomalib
from anople_anomalib import anople as lightning_model
from anople_anomalib.method import torch_model


def test_public_names_are_the_classes() -> None:
    assert anople_anomalib.AnoPLe is lightning_model.AnoPLe
    assert anople_anomalib.AnoPLeModel is torch_model.AnoPLeModel
    assert set(anople_anomalib.__all__) <= set(dir(anople_anomalib))


def test_unknown_name_is_an_attribute_error_that_quotes_it() -> None:
    with pytest.raises(AttributeError, match=r"anople_anomalib.*Anople"):
        _ = anople_anomalib.Anople
