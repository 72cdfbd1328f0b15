"""MLflow's tables without MLflow."""

from __future__ import annotations

from tests.mlflow_access.sql.tables import engine

__all__ = ["engine"]
