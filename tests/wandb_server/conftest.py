"""A server, and a client process to read from it, for the tests of the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import WandbServer
from .clients import Worker


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """One server a module: tests use projects of their own."""
    with WandbServer(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert not running.executor.unknown, "fields this server does not know"


@pytest.fixture(scope="module")
def reader(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process that has imported wandb and reads through the public API."""
    with Worker(server, tmp_path_factory.mktemp("reader")) as worker:
        worker.call("import wandb")
        yield worker


@pytest.fixture(autouse=True)
def _healthy(server: WandbServer) -> Iterator[None]:
    """A fault lasts no longer than the test that asked for it."""
    yield
    server.heal()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory for one more client."""
    return tmp_path / "client"
