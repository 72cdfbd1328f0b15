"""What the helper processes of the package have in common: the environment they start in, and that
the training goes first."""

from __future__ import annotations

import contextlib
import os
import site
from pathlib import Path

from mlflow_wandb_plugin.settings import PREFIX

NICENESS = 5


def step_aside() -> None:
    """Let others go first where processors are few: a training's step must not wait for its
    replica. A system that knows no niceness, or forbids it, is left as it is."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(max(0, NICENESS - os.nice(0)))


def helper_environment(**more: str) -> dict[str, str]:
    """Ours, without what would make the helper a trainer or join our wandb-core."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("WANDB_SERVICE", PREFIX + "AUTOLOG")
    }
    environment[PREFIX + "HOMES"] = "wandb"
    environment["PYTHONSAFEPATH"] = "1"
    package_home = str(Path(__file__).resolve().parents[2])
    if package_home not in (*site.getsitepackages(), site.getusersitepackages()):
        # A checkout that is on sys.path but not installed.
        path = [package_home, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    return environment | more


def absolute_uri(uri: str) -> str:
    """An MLflow URI with a relative SQLite file or folder in terms of this process's folder:
    other processes will read it."""
    scheme, _, file = uri.partition(":///")
    if uri.startswith("sqlite") and file:
        return uri if file.startswith(("/", ":")) else f"{scheme}:///{Path(file).absolute()}"
    if not uri or "://" in uri or uri.startswith(("file:", "databricks", "uc:")):
        return uri
    return str(Path(uri).absolute())
