"""Points into MLflow on MariaDB or MySQL: this project, its peers, and the driver alone.

    python -m benchmarks.write_mysql [--runs 1] [--keys 20] [--steps 5000] [--rounds 5]
        [--peers 0]

`--peers 0` leaves out all but the limit. The server is the tests' own (programs that are installed
on this machine), which does not wait for the disk at each commit.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from benchmarks import peers
from benchmarks.common import arguments, private_place
from tests.support.mysql import mysql_server, why_not


def main() -> None:
    options = arguments(__doc__, runs=1, keys=20, steps=5000, rounds=5, peers=1)
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    with private_place(), mysql_server() as server:
        databases = Databases(server)
        peers.race(
            options, databases.new, {"executemany, the limit": peers.raw_mysql}, databases.version
        )


class Databases:
    """Empty MLflow databases on one server, one after another."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._count = 0
        self.version = str(self._run("SELECT @@version")[0][0]).partition("-")[0]

    def new(self) -> str:
        """The URI of a fresh one. The one before goes: its writers are done."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        if self._count:
            self._run(f"DROP DATABASE mlflow{self._count}")
        self._count += 1
        self._run(f"CREATE DATABASE mlflow{self._count} CHARACTER SET utf8mb4")
        uri = f"{self._server.rpartition('/')[0]}/mlflow{self._count}"
        SqlAlchemyStore(uri, "artifacts").engine.dispose()
        return uri

    def _run(self, statement: str) -> Any:
        with closing(peers.mysql_connection(self._server)) as connection:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()


if __name__ == "__main__":
    main()
