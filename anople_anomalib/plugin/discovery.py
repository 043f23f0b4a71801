# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Discovery of the plugin by anomalib, without an import by the user.

Three steps lead to that, each waiting for the one before:

1. At the start of Python, ``anople_anomalib_autoload.pth`` puts a small finder in front of Python's own. It costs next
   to nothing and does nothing until somebody imports anomalib; then it imports this package.
2. The package calls :func:`install`, which waits in the same way for the modules of ``_REGISTRATIONS``.
3. Once such a module is imported, a function of :mod:`.registration` adds the plugin's names to it.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

_REGISTRATIONS = {  # a module of anomalib -> the function of registration.py that adds the plugin's names to it
    "anomalib.models": "offer_models",
    "anomalib.data": "offer_datamodules",
    "anomalib.cli.pipelines": "register_command",
}
_failed: set[str] = set()


class _HookedLoader:
    """Loader that runs a module's own loader, then the registration that waited for it.

    As in :class:`importlib.util.LazyLoader` the module gets its own loader back before it runs, so that nothing of
    this class is left on it. Until then every question about source, code or resources is passed on.

    Args:
        loader: The loader that Python's own finders chose.
    """

    def __init__(self, loader: "Loader") -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> object:
        """Return the attribute of the module's own loader."""
        if name == "loader":  # not set yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, then the registration that waited for it."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _register(module.__name__)


class _Finder:
    """Finder of anomalib's awaited modules: asks the finders behind it and hooks their loaders.

    Another plugin's finder may do the same and ask this one in turn. Two rules keep the two from going in circles:
    only the finders behind this one are asked, and a question within a question gets no answer.
    """

    def __init__(self) -> None:
        self.asking: set[tuple[int, str]] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the hooked spec of such a module, ``None`` for any other."""
        if fullname not in _REGISTRATIONS:
            return None
        question = (get_ident(), fullname)
        if question in self.asking or self not in sys.meta_path:
            return None
        self.asking.add(question)
        try:
            spec = self._ask_finders_behind(fullname, path, target)
        finally:
            self.asking.remove(question)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _HookedLoader(spec.loader))  # importlib.abc costs too much to derive from it
        return spec

    def _ask_finders_behind(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)  # finders of old packages may lack it
            spec = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                return spec
        return None


def install() -> None:
    """Wait for anomalib's modules, and register at once with those that are imported already."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for host in _REGISTRATIONS.keys() & sys.modules.keys():
        _register(host)


def _register(host: str) -> None:
    """Add the plugin's names to a module of anomalib; a failure is one warning, never an error of anomalib."""
    try:
        from . import registration

        getattr(registration, _REGISTRATIONS[host])()
    except Exception as error:  # noqa: BLE001  # whatever is wrong with the plugin, anomalib goes on
        warn(host, error)


def warn(host: str, error: Exception) -> None:
    """Say once why the plugin's names are not in a module of anomalib."""
    if not _failed:
        warnings.warn(
            f"anople_anomalib could not add itself to {host}: {type(error).__name__}: {error}. "
            "Name its classes in full, as in --model anople_anomalib.AnoPLe.",
            RuntimeWarning,
            stacklevel=3,
        )
    _failed.add(host)
