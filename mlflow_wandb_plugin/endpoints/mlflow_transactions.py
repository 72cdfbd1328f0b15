"""Transactions on MLflow's database that the work of several runs shares."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

T = TypeVar("T")

LOCK_S = 0.5
"""After this long a transaction takes up no more work: MLflow's own writers wait behind it."""


class SharedTransactions:
    """Carries out pieces of work that threads bring, as many in a transaction as are waiting.

    `run` returns when its work is committed, as if it had a transaction of its own. Whoever finds
    nobody at work carries what all of them brought; meanwhile the next transaction's work gathers.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._begin = _begin_sqlite if engine.dialect.name == "sqlite" else _begin
        self._waiting: deque[_Work] = deque()
        self._at_work = threading.Lock()

    def run(self, do: Callable[[Connection], T]) -> T:
        """``do(connection)``, committed.

        Args:
            do: called again if work that shared its transaction failed: it must only use the
                connection, and do the same each time.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database did not take it.
            Exception: what ``do`` raised; of its work nothing is left.
        """
        work = _Work(do)
        self._waiting.append(work)
        with self._at_work:
            while not work.done:
                self._carry_some()
        if work.error is not None:
            raise work.error
        result: T = work.result
        return result

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that only reads."""
        with self.engine.connect() as connection:
            yield connection

    def _carry_some(self) -> None:
        carried = [self._waiting.popleft()]
        try:
            with self._transaction() as connection:
                until = time.monotonic() + LOCK_S
                carried[0].do_in(connection)
                while self._waiting and time.monotonic() < until:
                    carried.append(self._waiting.popleft())
                    carried[-1].do_in(connection)
        except Exception as error:
            if len(carried) == 1:
                carried[0].fail(error)
            else:
                for work in carried:
                    self._carry_alone(work)
        except BaseException:
            # Not the fault of the work: each thread goes on with its own.
            self._waiting.extendleft(reversed(carried))
            raise
        else:
            for work in carried:
                work.done = True

    def _carry_alone(self, work: _Work) -> None:
        try:
            with self._transaction() as connection:
                work.do_in(connection)
        except Exception as error:
            work.fail(error)
        else:
            work.done = True

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            self._begin(connection)
            yield connection
            connection.commit()


class _Work:
    """One thread's work, and what came of it."""

    def __init__(self, do: Callable[[Any], Any]) -> None:
        self._do = do
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    def do_in(self, connection: Connection) -> None:
        self.result = self._do(connection)

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done = True


def _begin(connection: Connection) -> None:
    """SQLAlchemy begins by itself."""


def _begin_sqlite(connection: Connection) -> None:
    """As MLflow sets up its own sessions; and the lock at once: what is read stays true."""
    connection.exec_driver_sql("PRAGMA busy_timeout = 20000")
    connection.exec_driver_sql("PRAGMA foreign_keys = ON")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
