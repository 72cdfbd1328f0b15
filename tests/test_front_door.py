"""What ``import mlflow_wandb_plugin`` brings, and what it leaves alone."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import mlflow_wandb_plugin

HEAVY = ("mlflow", "wandb", "torch", "ray", "flyte", "pyarrow", "pandas", "numpy", "sqlalchemy")


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages that a fresh Python has loaded after importing ``modules``."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, text=True, capture_output=True, timeout=60
    )
    return set(json.loads(done.stdout))


HEAVY_MODULES = (
    "wandb", "store.arrow_requests", "store.builders", "store.fast_reads", "store.fast_writes",
    "store.server_requests",
    "mlflow_access.server_artifacts", "mlflow_access.server_client",
)  # fmt: skip
"""The drop-in is wandb; the others subclass MLflow's classes, or make its objects, and they
are imported when MLflow builds a store or a client is opened."""


def test_importing_the_package_imports_neither_wandb_nor_mlflow() -> None:
    """The front door is light: no third party at all comes through it."""
    assert not loaded_by("mlflow_wandb_plugin") & {*HEAVY, "pluggy", "click", "rich"}


def test_no_room_loads_a_heavy_third_party_before_it_is_used() -> None:
    """Importing any module but a few loads no heavy package; they are imported in functions."""
    package = Path(mlflow_wandb_plugin.__file__).parent
    names = [
        module.name
        for module in pkgutil.walk_packages([str(package)], "mlflow_wandb_plugin.")
        if module.name.removeprefix("mlflow_wandb_plugin.") not in HEAVY_MODULES
    ]
    assert len(names) > 30
    assert not loaded_by(*names) & {*HEAVY}


def test_all_is_what_is_exposed() -> None:
    """`__all__` names what the package defines for users, and each name is there."""
    for name in mlflow_wandb_plugin.__all__:
        assert getattr(mlflow_wandb_plugin, name) is not None
    public = {
        name
        for name, value in vars(mlflow_wandb_plugin).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", "").startswith("mlflow_wandb_plugin")
    }
    lazy = {"backfill", "dual_write", "history", "runs", "verify"}
    assert public | lazy | {"__version__"} == set(mlflow_wandb_plugin.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as in any module."""
    assert not hasattr(mlflow_wandb_plugin, "dualwrite")


def test_version_is_the_distributions() -> None:
    """`__version__` and the package's metadata agree."""
    from importlib.metadata import version

    assert mlflow_wandb_plugin.__version__ == version("mlflow-wandb-plugin")
