"""A W&B server for the tests of sources."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Worker


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """One server a module: tests use projects of their own."""
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture(scope="module")
def api(wandb: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process that reads and logs with the real SDK."""
    with Worker(wandb, tmp_path_factory.mktemp("api")) as worker:
        worker.call("import wandb")
        yield worker


@pytest.fixture(autouse=True)
def _healthy(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fault lasts no longer than the test that asked for it."""
    yield
    if "wandb" in request.fixturenames:
        request.getfixturevalue("wandb").heal()
