"""Call something once a module has been imported. It needs nothing but Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def when_imported(name: str, call: Callable[[ModuleType], object]) -> None:
    """Have ``call`` called with a module after its first import, or now if that was before.

    Args:
        name: of the module, with dots.
    """
    if name in sys.modules:
        call(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, call))


class _Finder(MetaPathFinder):
    """Finds a module as Python does, and wraps its loader.

    It stays until the module is imported: libraries ask whether there is a wandb long before.
    """

    def __init__(self, name: str, call: Callable[[ModuleType], object]) -> None:
        self._name = name
        self._call = call

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _CallingLoader(spec.loader, self, self._call)
        return spec


class _CallingLoader(Loader):
    """Loads a module with another loader, removes its finder, and calls what is to be called."""

    def __init__(
        self, loader: Loader, finder: MetaPathFinder, call: Callable[[ModuleType], object]
    ) -> None:
        self._loader = loader
        self._finder = finder
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        self._call(module)
