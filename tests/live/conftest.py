"""Fixtures of the tests that run the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wandb_server import WandbServer


@pytest.fixture
def patient(env: dict[str, str]) -> None:
    """Deadlines that a busy machine meets, for tests whose subject is not time."""
    env.update(MLFLOW_WANDB_INIT_TIMEOUT="90", MLFLOW_WANDB_FINISH_TIMEOUT="120")


@pytest.fixture
def wandb_server(tmp_path: Path) -> Iterator[WandbServer]:
    with WandbServer(tmp_path / "server") as running:
        yield running


@pytest.fixture
def online(wandb_server: WandbServer, env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Environment of a script that is logged in at the loopback W&B server, and active there."""
    place = wandb_server.env(tmp_path / "client")
    return {**env, **place, "WANDB_MODE": "online", "MLFLOW_WANDB_ACTIVE": "1"}
