"""MLflow on a MySQL server."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import SqlBulk, open_bulk


@pytest.fixture
def client(mysql: str, fresh_store: str) -> MlflowClient:
    """A client of the session's MySQL, with artifacts in the test's folder."""
    return MlflowClient(mysql)


@pytest.fixture
def bulk(client: MlflowClient) -> SqlBulk:
    return open_bulk(client)
