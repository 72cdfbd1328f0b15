"""Transactions on MLflow's database, each of which holds the work of several threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mlflow_wandb_plugin.mlflow_access.sql.sessions import session_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

T = TypeVar("T")

HELD_S, FREE_S = 1.0, 0.12
"""After SQLite was locked for the first time span, it is left unlocked for the second one."""
LOCK_S = 0.5
"""A transaction that lasts as long takes no more work: other writers wait for its end."""
AT_ONCE = 4
"""Transactions at a time, but on SQLite, which lets one writer in."""
DEADLOCKS = 5
"""How often work is repeated that the database rolled back because of another transaction."""

# Out of range, cut, not in the character set, too long; and a text of another character set in a
# comparison, in MariaDB and in MySQL 8.
_DATA_FAULTS = {(1264,), (1265,), (1366,), (1406,), (1267,), (1271,), (3854,)}

_ACTIVE = "mlflow_wandb_active"


class _Batch(threading.local):
    """Work that this thread's steps of `SharedTransactions.batched` add; None outside of them."""

    works: list[Callable[[Connection], Any]] | None = None


class _Work(NamedTuple):
    """One thread's work; ``done`` has its result when it is committed."""

    do: Callable[[Connection], Any]
    done: Future[Any]


class _AbandonedError(Exception):
    """The thread that did the work was interrupted: nothing of it was committed."""


class SharedTransactions:
    """Does the work of many threads, in each transaction all work that is waiting.

    `run` returns when its work is committed, as if it had a transaction of its own. The first
    threads that wait, as many as the database serves at once, do the work of all; work that comes
    meanwhile waits for the next transaction.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._session = session_of(engine)
        self._held_s = 0.0
        self._ended = 0.0
        self._waiting: deque[_Work] = deque()
        self._working = threading.Semaphore(1 if self._session.one_writer else AT_ONCE)
        self._batch = _Batch()

    def run(self, do: Callable[[Connection], T]) -> T:
        """Call ``do(connection)``, commit, and return its result.

        Args:
            do: called again if other work in its transaction failed: it must only use the
                connection, and do the same each time.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database refused the work.
            Exception: what ``do`` raised; its work is rolled back.
        """
        if self._batch.works is not None:
            self._batch.works.append(do)
            return None  # type: ignore[return-value]
        while True:
            done: Future[T] = Future()
            self._waiting.append(_Work(do, done))
            with self._working:
                while self._waiting and not done.done():
                    self._work_some()
            with contextlib.suppress(_AbandonedError):
                return done.result()

    def batched(self, steps: Sequence[Callable[[], object]]) -> None:
        """Do the work that ``steps`` would `run` in one transaction: all of it or none. They are
        called at once, in this thread, and `run` returns None to them."""
        works: list[Callable[[Connection], Any]] = []
        self._batch.works = works
        try:
            for step in steps:
                step()
        finally:
            self._batch.works = None
        if works:
            self.run(lambda connection: [work(connection) for work in works])

    def _work_some(self) -> None:
        """Do the first work that waits, and in half a second what else does."""
        taken: list[_Work] = []
        results: list[Any] = []
        try:
            if not self._take(taken):
                return
            with self.transaction() as connection:
                until = time.monotonic() + LOCK_S
                results.append(taken[0].do(connection))
                while time.monotonic() < until and self._take(taken):
                    results.append(taken[-1].do(connection))
        except Exception as error:
            if len(taken) == 1 and not is_deadlock(error):
                taken[0].done.set_exception(error)
            else:
                for work in taken:
                    self._work_alone(work)
        except BaseException:
            # An interrupt of this thread: the other threads do their work themselves.
            for work in taken:
                if not work.done.done():
                    work.done.set_exception(_AbandonedError())
            raise
        else:
            for work, result in zip(taken, results, strict=True):
                work.done.set_result(result)

    def _take(self, taken: list[_Work]) -> bool:
        """Move the first work that waits to ``taken``; False if there is none."""
        try:
            taken.append(self._waiting.popleft())
        except IndexError:
            return False
        return True

    def _work_alone(self, work: _Work) -> None:
        for left in reversed(range(DEADLOCKS)):
            try:
                with self.transaction() as connection:
                    result = work.do(connection)
            except Exception as error:
                if left and is_deadlock(error):
                    continue
                work.done.set_exception(error)
            else:
                work.done.set_result(result)
            return

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction of its own; committed at the end, or rolled back and the error raised."""
        from sqlalchemy.exc import DataError, OperationalError

        if self._session.one_writer:
            self._leave_unlocked()
        with self._session.connected() as connection:
            connection.info[_ACTIVE] = {}
            self._session.begin(connection)
            began = time.monotonic()
            try:
                yield connection
                self._session.commit(connection)
            except OperationalError as error:
                if error.orig is None or not is_data_fault(error):
                    raise
                raise DataError(error.statement, error.params, error.orig) from error
            finally:
                self._session.end(connection)
                self._ended = time.monotonic()
                self._held_s += self._ended - began

    def _leave_unlocked(self) -> None:
        """SQLite's writers do not queue: they try again every 100 ms, and would not find the
        database unlocked if one transaction followed another at once."""
        free_s = time.monotonic() - self._ended
        if self._held_s >= HELD_S and free_s < FREE_S:
            time.sleep(FREE_S - free_s)
        if self._held_s >= HELD_S or free_s >= FREE_S:
            self._held_s = 0.0
        else:
            self._held_s = max(0.0, self._held_s - free_s)


def is_deadlock(error: Exception) -> bool:
    """Whether the database rolled back a transaction because two waited for each other: it can be
    repeated at once. MySQL's error number or PostgreSQL's SQLSTATE decides."""
    cause = getattr(error, "orig", None)
    code = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
    return code == "40P01" or getattr(cause, "args", ())[:1] == (1213,)


def is_lock_timeout(error: Exception) -> bool:
    """Whether the database waited for the lock of another writer as long as it may. SQLite's words
    or MySQL's error number decide; PostgreSQL waits until the lock is free."""
    cause = getattr(error, "orig", None)
    return "database is locked" in str(cause) or getattr(cause, "args", ())[:1] == (1205,)


def is_data_fault(error: BaseException | None) -> bool:
    """Whether the database cannot store a value, so that repeating does not help. MySQL's error
    number decides: drivers raise some of these as operational errors, like those of a server
    that is down."""
    return getattr(getattr(error, "orig", None), "args", ())[:1] in _DATA_FAULTS


def is_active(connection: Connection, run_id: str) -> bool:
    """Whether a run exists and is not deleted; queried once per transaction."""
    known: dict[str, bool] = connection.info[_ACTIVE]
    if run_id not in known:
        mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
        query = f"SELECT lifecycle_stage FROM runs WHERE run_uuid = {mark}"
        found = connection.exec_driver_sql(query, (run_id,)).scalar()
        known[run_id] = found == "active"
    return known[run_id]
