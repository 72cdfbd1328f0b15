"""Import parts of MLflow and wandb without the rest, in a process that may need no more.

``import mlflow`` takes two seconds of processor time and 165 MB, of which the client of a tracking
server is a third; ``import wandb`` takes half a second and 50 MB, of which the messages of its log
are a quarter. After `allow_partial_import`, these packages are in `sys.modules` without what their
``__init__`` defines; their modules can be imported as always. Whoever asks one of the packages for
something that it lacks has its ``__init__`` run, so that nothing is missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

PACKAGES = ("mlflow", "mlflow.tracking", "mlflow.gateway", "wandb")
PATIENCE_S = 120.0
"""For another thread that loads a package: it may wait for a module that this one imports."""
_loading = threading.RLock()
_loaded: set[str] = set()
"""The packages whose ``__init__`` ran, or runs."""


class _PartialPackage(ModuleType):
    """A package whose ``__init__`` runs when an attribute is missing."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            self.load()
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def load(self) -> None:
        """Run ``__init__``, or wait for another thread that does. While it runs in this thread, it
        may look for what it has not defined yet."""
        if not _loading.acquire(timeout=PATIENCE_S):
            raise ImportError(f"{self.__name__} is still being imported by another thread")
        try:
            if self.__name__ not in _loaded:
                _loaded.add(self.__name__)
                loader: Any = self.__loader__
                loader.exec_module(self)
        finally:
            _loading.release()


def allow_partial_import() -> None:
    """Let this process import parts of packages alone, unless it has imported the packages."""
    for name in PACKAGES:
        parent, _, child = name.rpartition(".")
        if name in sys.modules or (parent and not is_partial(parent)):
            continue
        spec = importlib.util.find_spec(name)
        version = _version(name)
        if spec is None or spec.submodule_search_locations is None or not version:
            continue
        package: Any = _PartialPackage(name)
        package.__spec__, package.__loader__ = spec, spec.loader
        package.__package__, package.__file__ = name, spec.origin
        package.__path__ = spec.submodule_search_locations
        sys.modules[name] = package
        if parent:
            setattr(sys.modules[parent], child, package)
        else:
            package.__version__ = version


def load(package: str) -> None:
    """Import all of a package of `PACKAGES`."""
    found = importlib.import_module(package)
    if isinstance(found, _PartialPackage):
        found.load()


def _version(package: str) -> str:
    """The version of a package; empty for one whose distribution has another name."""
    try:
        return importlib.metadata.version(package.partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return ""


def is_partial(package: str) -> bool:
    """Whether a package is imported in part, or will be."""
    partial = isinstance(sys.modules.get(package), _PartialPackage)
    return partial and package not in _loaded
