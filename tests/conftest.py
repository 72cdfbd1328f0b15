"""Fixtures of all tests: private folders and, once a session, a real MLflow server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment import isolated
from tests.support.processes import mlflow_server


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Environment of a child process, isolated in the test's folder; MLflow is a SQLite file."""
    return isolated(tmp_path)


@pytest.fixture(autouse=True)
def _private_process(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test process itself touches nobody's home either."""
    for name, value in isolated(tmp_path_factory.getbasetemp() / "process").items():
        if name.startswith(("WANDB_", "MLFLOW_", "DO_NOT")) or name == "HOME":
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real `mlflow server`, shared by the session. Use a W&B project of your own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as url:
        yield url
