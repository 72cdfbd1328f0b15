"""Fixtures of all tests: private folders and, once a session, a real MLflow server."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from tests.support.environment import isolated
from tests.support.health_checks import ON_LOAD
from tests.support.processes import mlflow_server
from tests.support.stores import copy_store, make_template

# The same examples each time, so that a landing is judged by its change;
# HYPOTHESIS_PROFILE=search looks for new ones.
# Neither has a limit of time: how long an example takes depends on the machine's load.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=ON_LOAD)
settings.register_profile(
    "search", derandomize=False, max_examples=200, deadline=None, suppress_health_check=ON_LOAD
)
# For `make mutants`, to which any failure will do: no smaller example is looked for.
settings.register_profile(
    "first", settings.get_profile("same"), phases=(Phase.explicit, Phase.generate)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the most slow tests first: of two workers, none is left with them when the
    other one has ended."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database to copy."""
    return make_template(tmp_path_factory.mktemp("empty-store") / "empty.db")


@pytest.fixture
def env(tmp_path: Path, empty_store: Path) -> dict[str, str]:
    """Environment of a child process, isolated in the test's folder; MLflow is a SQLite file."""
    copy_store(empty_store, tmp_path / "mlflow.db")
    return isolated(tmp_path)


@pytest.fixture
def fresh_store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an MLflow that has seen nothing; what this process writes stays in the test's folder
    (MLflow puts artifacts of a SQLite store below the current one)."""
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    return copy_store(empty_store, tmp_path / "fresh" / "fresh.db")


@pytest.fixture(autouse=True)
def _private_process(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test process itself touches nobody's home either, and logs to no stream of another test:
    MLflow 3.1's migrations give the root logger such a handler."""
    for handler in [one for one in logging.root.handlers if type(one) is logging.StreamHandler]:
        logging.root.removeHandler(handler)
    for name, value in isolated(tmp_path_factory.getbasetemp() / "process").items():
        if name.startswith(("WANDB_", "MLFLOW_", "DO_NOT")) or name == "HOME":
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real `mlflow server`, shared by the session. Use a W&B project of your own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as url:
        yield url


@pytest.fixture
def logged_out() -> Iterator[None]:
    """wandb keeps its settings as long as a process lives, an API key that it found once too."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()
