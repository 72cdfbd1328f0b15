"""Transactions on MLflow's database that the work of several runs shares."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

T = TypeVar("T")

HELD_S, FREE_S = 1.0, 0.12
"""When SQLite has been held for so long, it is left free for so long."""
LOCK_S = 0.5
"""After this long a transaction takes up no more work: MLflow's own writers wait behind it."""


DEADLOCKS = 5
"""Further tries of work that the database took back because of another transaction."""

# Out of range, cut, not in the character set, too long; and the same found while comparing, by
# MariaDB and by MySQL 8.
_DATA_FAULTS = {(1264,), (1265,), (1366,), (1406,), (1267,), (1271,), (3854,)}

_READY, _ACTIVE = "mlflow_wandb_ready", "mlflow_wandb_active"


class SharedTransactions:
    """Carries out pieces of work that threads bring, as many in a transaction as are waiting.

    `run` returns when its work is committed, as if it had a transaction of its own. Whoever finds
    nobody at work carries what all of them brought; meanwhile the next transaction's work gathers.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._one_writer = engine.dialect.name == "sqlite"
        self._begin, self._end = _SESSION_HOOKS.get(engine.dialect.name, (_nothing, _nothing))
        self._held_s = 0.0
        self._ended = 0.0
        self._waiting: deque[_Work] = deque()
        self._at_work = threading.Lock()
        self._gathering = threading.local()

    def run(self, do: Callable[[Connection], T]) -> T:
        """``do(connection)``, committed.

        Args:
            do: called again if work that shared its transaction failed: it must only use the
                connection, and do the same each time.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database did not take it.
            Exception: what ``do`` raised; of its work nothing is left.
        """
        gathered = getattr(self._gathering, "works", None)
        if gathered is not None:
            gathered.append(do)
            return None  # type: ignore[return-value]
        work = _Work(do)
        self._waiting.append(work)
        with self._at_work:
            while not work.done:
                self._carry_some()
        if work.error is not None:
            raise work.error
        result: T = work.result
        return result

    def batched(self, steps: Sequence[Callable[[], object]]) -> None:
        """Carry out what ``steps`` would `run`, one after another, in one transaction: all or none.

        Args:
            steps: called at once, in this thread; what they run gives them None.
        """
        works: list[Callable[[Connection], Any]] = []
        self._gathering.works = works
        try:
            for step in steps:
                step()
        finally:
            self._gathering.works = None
        if works:
            self.run(lambda connection: [work(connection) for work in works])

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
            if len(carried) == 1 and not is_deadlock(error):
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
        for left in reversed(range(DEADLOCKS)):
            try:
                with self._transaction() as connection:
                    work.do_in(connection)
            except Exception as error:
                if left and is_deadlock(error):
                    continue
                work.fail(error)
            else:
                work.done = True
            return

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._one_writer:
            self._let_others_in()
        with self.engine.connect() as connection:
            connection.info[_ACTIVE] = {}
            self._begin(connection)
            began = time.monotonic()
            try:
                with _faults_named():
                    yield connection
                    connection.commit()
            finally:
                self._end(connection)
                self._ended = time.monotonic()
                self._held_s += self._ended - began

    def _let_others_in(self) -> None:
        """SQLite's writers do not queue: they look again every 100 ms. Where one transaction
        follows another at once, whoever else waits would never find the database free."""
        free_s = time.monotonic() - self._ended
        if self._held_s >= HELD_S and free_s < FREE_S:
            time.sleep(FREE_S - free_s)
        if self._held_s >= HELD_S or free_s >= FREE_S:
            self._held_s = 0.0


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


def is_deadlock(error: Exception) -> bool:
    """Whether the database took a transaction back because two waited for each other: it may be
    begun again at once. By MySQL's error number, and PostgreSQL's SQLSTATE."""
    cause = getattr(error, "orig", None)
    code = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
    return code == "40P01" or getattr(cause, "args", ())[:1] == (1213,)


def is_data_fault(error: BaseException | None) -> bool:
    """Whether the database cannot hold a value that it was given: another try will not help.

    By MySQL's error number; drivers call some of these operational, as if the server were in
    trouble.
    """
    return getattr(getattr(error, "orig", None), "args", ())[:1] in _DATA_FAULTS


@contextmanager
def _faults_named() -> Iterator[None]:
    """Faults of what is written are SQLAlchemy's DataError, whatever the driver calls them."""
    from sqlalchemy.exc import DataError, OperationalError

    try:
        yield
    except OperationalError as error:
        if error.orig is None or not is_data_fault(error):
            raise
        raise DataError(error.statement, error.params, error.orig) from error


def _nothing(connection: Connection) -> None:
    """SQLAlchemy begins and ends by itself."""


def _begin_sqlite(connection: Connection) -> None:
    """As MLflow sets up its own sessions; and the lock at once: what is read stays true."""
    if not connection.info.get(_READY):
        connection.exec_driver_sql("PRAGMA busy_timeout = 20000")
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        # KiB. The points of one run lie all over the index: pages would come and go.
        connection.exec_driver_sql("PRAGMA cache_size = -65536")
        connection.info[_READY] = True
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_mysql(connection: Connection) -> None:
    """Where the server's mode is lax, or MLflow's own set-up has left it so, texts would be cut and
    numbers bent with a warning that nobody reads."""
    connection.exec_driver_sql(
        "SET @mlflow_wandb_mode = @@SESSION.sql_mode, SESSION sql_mode = 'STRICT_ALL_TABLES'"
    )


def _end_mysql(connection: Connection) -> None:
    """MLflow gets its pool's connection back as it was."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        connection.rollback()
        connection.exec_driver_sql("SET SESSION sql_mode = @mlflow_wandb_mode")
    except SQLAlchemyError:
        connection.invalidate()


_SESSION_HOOKS = {"sqlite": (_begin_sqlite, _nothing), "mysql": (_begin_mysql, _end_mysql)}
"""What a database wants said at a transaction's begin and behind its end."""


def is_active(connection: Connection, run_id: str) -> bool:
    """Whether a run is there and not deleted; asked once a transaction."""
    known: dict[str, bool] = connection.info[_ACTIVE]
    if run_id not in known:
        mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
        query = f"SELECT lifecycle_stage FROM runs WHERE run_uuid = {mark}"
        found = connection.exec_driver_sql(query, (run_id,)).scalar()
        known[run_id] = found == "active"
    return known[run_id]
