"""Install the tap as soon as a script imports wandb. ``mlflow-wandb run`` adds it to PYTHONPATH.

Python imports ``sitecustomize`` at start-up. The next one in `sys.path` is run, too.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

OWN_FOLDER = Path(__file__).resolve().parent


def _autolog() -> None:
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


def _run(spec: ModuleSpec | None) -> ModuleType | None:
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if os.environ.get("MLFLOW_WANDB_AUTOLOG"):
    # From its file: a child may have another Python, without the package.
    file = OWN_FOLDER.parents[1] / "core" / "import_hook.py"
    hook = _run(importlib.util.spec_from_file_location("mlflow_wandb_import_hook", file))
    if hook is not None:
        hook.when_imported("wandb", lambda _: _autolog())
others = [folder for folder in sys.path if Path(folder or ".").resolve() != OWN_FOLDER]
_run(PathFinder.find_spec("sitecustomize", others))
