"""Two W&B servers with keys of their own, and an MLflow store with runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

T = 1_700_000_000_000
SOURCE_KEY = "5" * 40
TARGET_KEY = "7" * 40


@pytest.fixture
def source(tmp_path: Path) -> Iterator[WandbServer]:
    """The server that runs are read from."""
    yield from _server(tmp_path / "source", SOURCE_KEY)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[WandbServer]:
    """The server that runs are written to."""
    yield from _server(tmp_path / "target", TARGET_KEY)


def _server(folder: Path, key: str) -> Iterator[WandbServer]:
    with WandbServer(folder) as running:
        running.api_key = key
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which the files of results go into. No key is in the environment."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "MLFLOW_WANDB_TARGET_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def store(folder: Path, empty_store: Path) -> str:
    """URI of an MLflow store with the runs a and b in "digits", and c in "words"."""
    from mlflow import MlflowClient

    uri = copy_store(empty_store, folder / "mlflow.db")
    client = MlflowClient(tracking_uri=uri)
    started = T
    for experiment, names in (("digits", "ab"), ("words", "c")):
        there = client.create_experiment(experiment)
        for name in names:
            started += 1000
            run = client.create_run(there, start_time=started, run_name=name).info.run_id
            client.log_param(run, "lr", "0.5" if name == "a" else "0.25")
            client.log_metric(run, "loss", 4.0, started + 1, 1)
            client.log_metric(run, "loss", 2.0, started + 2, 2)
            client.log_text(run, f"notes of {name}", "n.txt")
            client.set_terminated(run, end_time=started + 5)
    return uri


def rows(count: int) -> list[dict[str, Any]]:
    """Rows of a history."""
    return [{"_step": i, "_timestamp": 1.7e9 + i, "loss": i / 7} for i in range(count)]
