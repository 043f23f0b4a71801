# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot training inside anomalib's engine.

Lightning's hooks of the model stand in ``hooks``, ``checkpoints`` and ``finalization``; changes of the datamodule and
the trainer during a run, in ``run`` and ``shots``.
"""
