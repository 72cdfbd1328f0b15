"""Fixtures of the Flyte tests: programs run once a module, in folders of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.environment import isolated
from tests.support.stores import copy_store

pytest.importorskip(
    "flyte", reason="Flyte is not installed: pip install 'mlflow-wandb-plugin[flyte]'"
)


@pytest.fixture(scope="module")
def offline(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Callable[[str], dict[str, str]]:
    """Makes environments: W&B offline, MLflow a new SQLite file, everything in one folder."""

    def make(name: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp(name)
        copy_store(empty_store, folder / "mlflow.db")
        return isolated(folder)

    return make
