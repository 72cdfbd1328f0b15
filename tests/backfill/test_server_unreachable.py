"""A W&B server that cannot be reached is told within seconds, one that is gone is waited for."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_wandb_plugin.core import retry
from mlflow_wandb_plugin.core.limiter import Limiter
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import SourceOptions
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import SourceUnavailableError
from mlflow_wandb_plugin.sources.wandb_server.opening import open_wandb_server
from mlflow_wandb_plugin.sources.wandb_server.runs import RunLister
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress
from mlflow_wandb_plugin.wandb_api.client import WandbClient
from tests.support.commands import main_in_process
from tests.support.processes import free_port
from tests.wandb_server import WandbServer


class Clock:
    """Seconds that pass only in pauses between two tries.

    Attributes:
        said_s: when each warning was logged.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.said_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    passing = SimpleNamespace(sleep=found.sleep, monotonic=found.monotonic)
    monkeypatch.setattr(retry, "time", passing)
    warn = retry._logger.warning

    def warning(*text: Any) -> None:
        found.said_s.append(found.now_s)
        warn(*text)

    monkeypatch.setattr(retry._logger, "warning", warning)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    return found


def unknown_host(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("why", ["refused", "unknown host"])
@pytest.mark.parametrize("command", ["backfill", "verify", "export"])
def test_a_command_says_so_and_ends(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], fresh_store: str,
    monkeypatch: pytest.MonkeyPatch, command: str, why: str,
) -> None:  # fmt: skip
    """Within 5 s it says what it waits for, and within 10 s it ends with one line and exit code
    2."""
    if why == "unknown host":
        monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    to = tmp_path / "runs.csv" if command == "export" else fresh_store
    source = f"wandb+http://127.0.0.1:{free_port()}/E/P"
    code, out, err = main_in_process(capsys, monkeypatch, command, source, "--to", to)
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1] == (
        "mlflow-wandb: 127.0.0.1 did not answer: ConnectionError"
    )
    assert "Traceback" not in err
    assert len(clock.said_s) == 1
    assert clock.said_s[0] < 5
    assert 3 < clock.now_s < 10


def test_a_server_that_has_answered_is_waited_for(clock: Clock, tmp_path: Path) -> None:
    """Five minutes, for the clients of all its projects; so does one that only answers errors."""
    with WandbServer(tmp_path / "wandb") as server:
        server.add_run("p", "r", rows=[])
        entity = server.store.user.username
        address = ProjectAddress(server.url, server.url, entity, "p", "", server.api_key)
        client = WandbClient(address)
        assert len(list(RunLister(client).runs(Selection()))) == 1
    for gone in (client, client.for_project(address)):
        began_s = clock.now_s
        with pytest.raises(SourceUnavailableError, match="did not answer"):
            list(RunLister(gone).runs(Selection()))
        assert 280 < clock.now_s - began_s <= 300


def test_a_server_that_answers_errors_is_waited_for(clock: Clock, tmp_path: Path) -> None:
    """A 503 and a dropped connection are no sign of a wrong address."""
    with WandbServer(tmp_path / "wandb") as server:
        server.add_run("p", "r", rows=[])
        entity = server.store.user.username
        address = ProjectAddress(server.url, server.url, entity, "p", "", server.api_key)
        for fault in ({"status": 503}, {"drop_after_bytes": 0}):
            server.fail("Runs", times=8, **fault)
            began_s = clock.now_s
            assert len(list(RunLister(WandbClient(address)).runs(Selection()))) == 1
            assert clock.now_s - began_s > 10


def test_a_worker_of_an_engine_waits_for_the_server(clock: Clock) -> None:
    """The process that gave it the request gate has asked the server before."""
    uri = f"wandb+http://127.0.0.1:{free_port()}/E/P"
    source = open_wandb_server(uri, SourceOptions(request_gate=Limiter()))
    with pytest.raises(SourceUnavailableError):
        list(source.runs(Selection()))
    assert clock.now_s > 280


def test_a_shorter_patience_than_the_errors_holds() -> None:
    """Where the caller does not wait at all."""
    error = SourceUnavailableError("down", patience_s=8.0)

    def down() -> None:
        raise error

    with pytest.raises(SourceUnavailableError):
        Backoff(0.0, wait=lambda _: pytest.fail("waited")).call(down)
