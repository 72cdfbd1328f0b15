"""Import parts of MLflow without the rest, in a process that may need no more.

``import mlflow`` takes two seconds of processor time and 165 MB, of which the client of a tracking
server is a third. After `allow_partial_import`, the packages ``mlflow`` and ``mlflow.tracking`` are
in `sys.modules` without what their ``__init__`` defines; their modules can be imported as always.
Whoever asks one of the packages for something that it lacks has its ``__init__`` run, so that
nothing is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

PACKAGES = ("mlflow", "mlflow.tracking")
PATIENCE_S = 120.0
"""For another thread that loads the package: it may wait for a module that this one imports."""
_loading = threading.RLock()


class _PartialPackage(ModuleType):
    """A package whose ``__init__`` runs when an attribute is missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if not _loading.acquire(timeout=PATIENCE_S):
            raise ImportError(f"{self.__name__} is still being imported by another thread")
        try:
            if type(self) is _PartialPackage:
                # Also while ``__init__`` runs: it may look for what it has not defined yet.
                import traceback

                traceback.print_stack()
                print("LOADS", self.__name__, name, flush=True)
                self.__class__ = ModuleType  # type: ignore[assignment]
                loader: Any = self.__loader__
                assert loader is not None
                loader.exec_module(self)
        finally:
            _loading.release()
        return getattr(self, name)


def allow_partial_import() -> None:
    """Let this process import parts of MLflow alone. Changes nothing if MLflow was imported."""
    if "mlflow" in sys.modules:
        return
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            return
        package = _PartialPackage(name)
        package.__spec__, package.__loader__ = spec, spec.loader
        package.__package__, package.__file__ = name, spec.origin
        package.__path__ = spec.submodule_search_locations
        sys.modules[name] = package
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)
    version: Any = importlib.import_module("mlflow.version")
    sys.modules["mlflow"].__version__ = version.VERSION  # type: ignore[attr-defined]


def is_partial() -> bool:
    """Whether MLflow is imported in part, or will be."""
    return isinstance(sys.modules.get("mlflow"), _PartialPackage)
