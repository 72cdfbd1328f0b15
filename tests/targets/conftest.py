"""A MySQL server for the tests of targets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import Engine

from tests.support.mysql import mysql_server, why_not


@pytest.fixture(scope="session")
def mysql() -> Iterator[str]:
    """URI of a database on a MariaDB or MySQL server, shared by the session."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with mysql_server() as uri:
        yield uri


@pytest.fixture
def mysql_engine(mysql: str) -> Iterator[Engine]:
    """Another way into the same database."""
    engine = sqlalchemy.create_engine(mysql)
    yield engine
    engine.dispose()
