"""A server on a mirrored store: what MLflow offers on some stores only, by the URI's scheme."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.mlflow_features import needs_opentelemetry
from tests.support.outboxes import no_replicator
from tests.support.processes import mlflow_server
from tests.support.stores import copy_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    """A server on ``wandb+sqlite``."""
    folder = tmp_path_factory.mktemp("mirrored-server")
    uri = copy_store(empty_store, folder / "mlflow.db")
    outbox = folder / "server" / "env" / "work" / "wandb" / "mlflow"
    with no_replicator(outbox), mlflow_server(folder / "server", uri=f"wandb+{uri}") as found:
        yield found


@needs_opentelemetry
def test_traces_by_opentelemetry_are_taken(url: str) -> None:
    """A span that another system exports becomes a trace of the experiment."""
    client = MlflowClient(url)
    experiment = client.create_experiment("traced from elsewhere")
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = bytes(range(16)), bytes(range(8)), "elsewhere"
    span.start_time_unix_nano = time.time_ns()
    span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000
    answer = requests.post(
        f"{url}/v1/traces",
        data=request.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    [trace] = client.search_traces(locations=[experiment], include_spans=False)
    assert trace.info.trace_id == f"tr-{bytes(range(16)).hex()}"
