"""Call something once wandb has been imported. It needs nothing but Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def when_wandb_is_imported(call: Callable[[], object]) -> None:
    """Have ``call`` called after the first import of wandb, or now if that was before."""
    if "wandb" in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _WandbFinder(call))


class _WandbFinder(MetaPathFinder):
    """Finds wandb as Python does, and wraps its loader.

    It stays until wandb is imported: libraries ask whether there is a wandb long before.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "wandb":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _CallingLoader(spec.loader, self, self._call)
        return spec


class _CallingLoader(Loader):
    """Loads a module with another loader, removes its finder, and calls what is to be called."""

    def __init__(self, loader: Loader, finder: MetaPathFinder, call: Callable[[], object]) -> None:
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
        self._call()
