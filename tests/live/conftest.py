"""Fixtures of the tests that run the real SDK."""

from __future__ import annotations

import pytest


@pytest.fixture
def patient(env: dict[str, str]) -> None:
    """Deadlines that a busy machine meets, for tests whose subject is not time."""
    env.update(MLFLOW_WANDB_INIT_TIMEOUT="90", MLFLOW_WANDB_FINISH_TIMEOUT="120")
