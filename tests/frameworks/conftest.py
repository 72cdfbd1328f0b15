"""Fixtures of the tests of launchers and frameworks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frameworks.homes import Homes
from tests.wandb_server import WandbServer


@pytest.fixture
def homes(tmp_path: Path, empty_store: Path) -> Iterator[Homes]:
    """A W&B server and an MLflow database that have seen nothing."""
    with WandbServer(tmp_path / "wandb-server") as server:
        homes = Homes(tmp_path, server, empty_store)
        yield homes
        shutil.rmtree(homes.env["TMPDIR"], ignore_errors=True)
        assert not server.executor.unknown, "fields that the test's W&B server does not know"
