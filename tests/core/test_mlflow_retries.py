"""MLflow repeats a request once while this package waits for it, and as before afterwards."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin import backfill, verify
from mlflow_wandb_plugin.core.mlflow_retries import RETRIES, few_mlflow_retries
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetUnavailableError
from mlflow_wandb_plugin.targets.mlflow.client import Client
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.backfill.test_decisions import local_run


class _Unavailable(http.server.BaseHTTPRequestHandler):
    """Answers 503 to everything, and counts."""

    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def unavailable() -> Iterator[str]:
    _Unavailable.requests = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Unavailable)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_mlflow_sends_a_request_twice_and_the_rest_is_ours(
    unavailable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's default of seven retries takes minutes."""
    monkeypatch.delenv(RETRIES, raising=False)
    with few_mlflow_retries():
        client = Client(unavailable, Backoff(0.0))
        with pytest.raises(TargetUnavailableError):
            client.call(client.mlflow.search_experiments)
    assert _Unavailable.requests == 2
    assert RETRIES not in os.environ


def test_the_variable_is_as_before_when_all_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where two backfills run at the same time, and where the user has set it."""
    monkeypatch.delenv(RETRIES, raising=False)
    first, second = few_mlflow_retries(), few_mlflow_retries()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ[RETRIES] == "1"
    second.__exit__(None, None, None)
    assert RETRIES not in os.environ
    monkeypatch.setenv(RETRIES, "5")
    with few_mlflow_retries():
        assert os.environ[RETRIES] == "5"
    assert os.environ[RETRIES] == "5"


def test_backfill_and_verify_from_python_have_few_retries(
    fresh_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the commands have: they say within seconds that they wait."""
    monkeypatch.delenv(RETRIES, raising=False)
    local_run(tmp_path / "wandb")
    seen: list[str | None] = []
    real = MlflowTarget.find

    def find(self: MlflowTarget, info: object) -> object:
        seen.append(os.environ.get(RETRIES))
        return real(self, info)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowTarget, "find", find)
    list(backfill(str(tmp_path / "wandb"), fresh_store))
    verify(str(tmp_path / "wandb"), fresh_store)
    assert seen
    assert set(seen) == {"1"}
    assert RETRIES not in os.environ
