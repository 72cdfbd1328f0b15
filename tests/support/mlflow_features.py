"""What the oldest supported MLflow, 3.1, does not have yet: tests that use it are skipped there."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

IS_3_1 = mlflow.__version__.startswith("3.1.")
DEADLOCKS = 20
"""Deadlocks in a row, after which a call is given up."""


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_streams = pytest.mark.skipif(
    not hasattr(LocalArtifactRepository, "log_artifact_from_stream"),
    reason="this MLflow's artifact repositories take no streams",
)
needs_workspaces = pytest.mark.skipif(
    not (_has("mlflow.genai.scorers.registry") and _has("mlflow.store.workspace")),
    reason="this MLflow has no workspaces and no scorer stores",
)
needs_opentelemetry = pytest.mark.skipif(
    not _has("mlflow.server.otel_api"), reason="this MLflow's server takes no OpenTelemetry spans"
)

EXPERIMENTS_OF_TRACES = (
    "locations"
    if "locations" in inspect.signature(MlflowClient.search_traces).parameters
    else "experiment_ids"
)
"""The argument of `MlflowClient.search_traces` that names the experiments."""


def loggable(metrics: Iterable[Metric], logged: set[tuple[object, ...]]) -> list[Metric]:
    """Those of ``metrics`` that MLflow's `log_batch` takes: 3.1 refuses a batch with a NaN or an
    infinity that the run has already, later versions ignore what it has.

    Args:
        logged: what the run has; new points are added.
    """
    taken = []
    for metric in metrics:
        stored = max(-sys.float_info.max, min(sys.float_info.max, metric.value))
        value = "nan" if math.isnan(metric.value) else stored
        point = (metric.key, value, metric.timestamp, metric.step)
        if point not in logged or not IS_3_1:
            taken.append(metric)
        logged.add(point)
    return taken


def log_batch_beside(client: MlflowClient, run_id: str, metrics: Sequence[Metric]) -> None:
    """Log metrics beside other writers into MySQL: 3.1 raises after a deadlock, later versions
    repeat the call themselves."""
    for left in reversed(range(DEADLOCKS if IS_3_1 else 1)):
        try:
            client.log_batch(run_id, metrics)
        except MlflowException as error:
            if not left or "1213, 'Deadlock found" not in str(error):
                raise
        else:
            return


def without_migrations(err: str) -> str:
    """Standard error without what MLflow 3.1 logs each time that it opens a database."""
    if not IS_3_1:
        return err
    noise = ("mlflow.store.db.utils: ", "[alembic.runtime.migration]")
    lines = err.splitlines(keepends=True)
    return "".join(line for line in lines if not any(text in line for text in noise))
