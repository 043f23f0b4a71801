# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""AnoPLe, few-shot anomaly detection by bi-directional CLIP prompt learning, as a model of anomalib.

Installing the package is enough: anomalib then knows the model, the datamodules and the pipeline by their short names
(``anomalib train --model AnoPLe``). The classes can be imported as well:

    >>> from anople_anomalib import AnoPLe, MemoryConfig
    >>> from anople_anomalib.data import FewShot, SampleTextures

Importing this package is light: the public names are imported when they are first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

from .plugin import discovery
from .utils.version import __version__ as __version__

if TYPE_CHECKING:
    from .anople import AnoPLe
    from .config import MemoryConfig, PromptConfig, TrainingConfig
    from .method.torch_model import AnoPLeModel

__all__ = ["AnoPLe", "AnoPLeModel", "MemoryConfig", "PromptConfig", "TrainingConfig"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "anople": ["AnoPLe"],
        "config": ["MemoryConfig", "PromptConfig", "TrainingConfig"],
        "method.torch_model": ["AnoPLeModel"],
    },
)

discovery.install()
