"""Install the tap as soon as a script imports wandb. ``mlflow-wandb run`` adds it to PYTHONPATH.

Python imports ``sitecustomize`` at start-up. The next one in `sys.path` is run, too.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


class _WandbFinder(MetaPathFinder):
    """Finds wandb as Python does, and has the tap installed after its import.

    It stays until then: libraries ask whether there is a wandb long before one is imported.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "wandb":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _TapInstallingLoader(spec.loader, self)
        return spec


class _TapInstallingLoader(Loader):
    """Loads a module with another loader, and then installs the tap; its finder is removed."""

    def __init__(self, loader: Loader, finder: MetaPathFinder) -> None:
        self._loader = loader
        self._finder = finder

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
        try:
            import mlflow_wandb_plugin
        except ImportError:
            reason = "this Python has no mlflow-wandb-plugin, nothing is replicated"
            print(f"mlflow-wandb: {reason}", file=sys.stderr)
            return
        try:
            mlflow_wandb_plugin.autolog()
        except mlflow_wandb_plugin.MlflowWandbError as error:
            print(f"mlflow-wandb: {error}", file=sys.stderr)


def _run_next_sitecustomize() -> None:
    own_folder = Path(__file__).resolve().parent
    others = [folder for folder in sys.path if Path(folder or ".").resolve() != own_folder]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


if os.environ.get("MLFLOW_WANDB_AUTOLOG"):
    sys.meta_path.insert(0, _WandbFinder())
_run_next_sitecustomize()
