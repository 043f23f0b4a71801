# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""SampleTextures: photographs that come with scikit-image, with painted defects."""

from .datamodule import SampleTextures

__all__ = ["SampleTextures"]
