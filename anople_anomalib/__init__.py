# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""AnoPLe, few-shot anomaly detection by bi-directional CLIP prompt learning, as a model of anomalib.

Installing the package is enough: anomalib then knows the model, the datamodules and the pipeline by their short names
(``anomalib train --model AnoPLe``). The classes can be imported as well:

    >>> from anople_anomalib import AnoPLe
    >>> from anople_anomalib.data import FewShot, SampleTextures

Importing this package is light: the public names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from anople_anomalib import _autoload

if TYPE_CHECKING:
    from anople_anomalib.lightning_model import AnoPLe
    from anople_anomalib.torch_model import AnoPLeModel

__all__ = ["AnoPLe", "AnoPLeModel"]
__version__ = "0.1.0"

_HOME_OF = {"AnoPLe": "lightning_model", "AnoPLeModel": "torch_model"}


def __getattr__(name: str) -> object:
    """Import a public class when it is first asked for.

    Args:
        name: One of ``__all__``.

    Returns:
        The class of that name.

    Raises:
        AttributeError: If the package has no such public name.
    """
    if name not in _HOME_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return the names of the package, those included that are not imported yet."""
    return sorted({*globals(), *__all__})


_autoload.install()
