# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The default number of epochs."""

from anople_anomalib.training.epochs import DefaultEpochs


def test_default_epochs_give_way_to_any_number() -> None:
    epochs = DefaultEpochs(60)
    assert epochs == 3
    assert 3 == epochs  # noqa: SIM300
    assert not 3 != epochs  # noqa: SIM202, SIM300
    assert epochs != None  # noqa: E711
    assert int(epochs) == 60
    assert hash(epochs) == hash(60)
