"""A W&B server, an MLflow store, and what the tiny recipes need."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.environment import isolated
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """torchtune is an extra: without it there is nothing to test here."""
    missing = [name for name in ("torch", "torchtune", "torchao") if find_spec(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed: pip install '.[torchtune]'"
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A loopback W&B, shared by a module: each run has an id of its own."""
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, wandb: WandbServer
) -> tuple[Path, dict[str, str]]:
    """A folder, and the environment of children that write to both homes from there."""
    folder = tmp_path_factory.mktemp("torchtune")
    copy_store(empty_store, folder / "mlflow.db")
    env = isolated(
        folder, MLFLOW_WANDB_INIT_TIMEOUT="90", MLFLOW_WANDB_FINISH_TIMEOUT="120"
    ) | wandb.env(folder / "client")
    del env["WANDB_MODE"]
    return folder, env
