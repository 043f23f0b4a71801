# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot training inside anomalib's engine.

Lightning's hooks of the model stand in ``hooks``, ``finalization`` and ``resuming``; what a run changes of the
datamodule and the trainer, in ``scoped_changes``, which takes it from ``shots``, ``epochs`` and ``distributed``.
"""
