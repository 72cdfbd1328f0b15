"""Work of several threads in common transactions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.exc import IntegrityError, OperationalError

from mlflow_wandb_plugin.mlflow_access.sql.transactions import DEADLOCKS, SharedTransactions
from tests.support.stores import count_commits


class Log:
    """A table of numbers, whose commits are counted."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        with self.engine.begin() as connection:
            connection.exec_driver_sql("create table numbers (number integer primary key)")
        self.transactions = SharedTransactions(self.engine)
        self._counted = count_commits(patch)

    @property
    def commits(self) -> int:
        return len(self._counted)

    def put(self, number: int) -> Any:
        def work(connection: Any) -> int:
            connection.exec_driver_sql("insert into numbers values (?)", (number,))
            return number

        return work

    @property
    def numbers(self) -> list[int]:
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql("select number from numbers order by number")
            return [number for (number,) in found]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    log = Log(tmp_path / "log.db", monkeypatch)
    yield log
    log.engine.dispose()


def test_work_is_committed_when_run_returns(log: Log) -> None:
    """Work that is alone has its own transaction, and its result is returned."""
    assert [log.transactions.run(log.put(number)) for number in (2, 1)] == [2, 1]
    assert (log.numbers, log.commits) == ([1, 2], 2)


def at_once(log: Log, works: list[Any]) -> list[Any]:
    """Run all works while one is in progress; return their results or errors."""
    results: list[Any] = [None] * len(works)
    first_runs, all_brought = threading.Event(), threading.Event()

    def hold(connection: Any) -> None:
        first_runs.set()
        assert all_brought.wait(30)

    def bring(at: int) -> None:
        try:
            results[at] = log.transactions.run(works[at])
        except Exception as error:
            results[at] = error

    holder = threading.Thread(target=log.transactions.run, args=(hold,))
    holder.start()
    assert first_runs.wait(30)
    threads = [threading.Thread(target=bring, args=(at,)) for at in range(len(works))]
    for thread in threads:
        thread.start()
    while len(log.transactions._waiting) < len(works):
        assert holder.is_alive()
    all_brought.set()
    for thread in [holder, *threads]:
        thread.join(30)
    return results


def test_waiting_work_shares_a_transaction(log: Log) -> None:
    """The work of ten waiting threads is one commit."""
    assert at_once(log, [log.put(number) for number in range(10)]) == list(range(10))
    assert log.numbers == list(range(10))
    assert log.commits == 1


def test_work_that_fails_harms_no_other(log: Log) -> None:
    """Failing work gets its error, and the rest of its transaction is repeated without it."""
    log.transactions.run(log.put(3))
    results = at_once(log, [log.put(number) for number in range(6)])
    assert isinstance(results[3], IntegrityError)
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5]
    assert log.numbers == list(range(6))


def test_batched_steps_are_all_or_nothing(log: Log) -> None:
    """`batched` steps are done all or none."""
    transactions = log.transactions
    transactions.batched([lambda number=n: transactions.run(log.put(number)) for n in (1, 2)])
    assert (log.numbers, log.commits) == ([1, 2], 1)
    with pytest.raises(IntegrityError):
        transactions.batched([lambda number=n: transactions.run(log.put(number)) for n in (3, 2)])
    assert log.numbers == [1, 2]
    transactions.run(log.put(4))
    assert log.numbers == [1, 2, 4]


def test_a_step_that_raises_leaves_nothing_behind(log: Log) -> None:
    """A step that raises leaves no rows, and does not affect later work."""
    transactions = log.transactions

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        transactions.batched([lambda: transactions.run(log.put(1)), fail])
    transactions.run(log.put(2))
    assert log.numbers == [2]


def test_a_long_transaction_takes_no_more_work(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction ends after its time, although work is waiting."""
    from mlflow_wandb_plugin.mlflow_access.sql import transactions as mlflow_transactions

    monkeypatch.setattr(mlflow_transactions, "LOCK_S", 0.0)
    assert at_once(log, [log.put(number) for number in range(3)]) == [0, 1, 2]
    assert log.commits == 4


def test_an_interrupt_reaches_only_the_thread_that_works(log: Log) -> None:
    """What an interrupted thread had taken from other threads is done by these, once."""
    raised: list[type[BaseException]] = []
    leads = threading.Event()
    interrupts = iter([True])

    def wait_for_others(connection: Any) -> None:
        leads.set()
        log.put(0)(connection)
        while len(log.transactions._waiting) < 2:
            assert not raised

    def interrupted_once(connection: Any) -> Any:
        log.put(2)(connection)
        if next(interrupts, False):
            raise KeyboardInterrupt

    def run(work: Any) -> None:
        try:
            log.transactions.run(work)
        except BaseException as error:
            raised.append(type(error))

    leader = threading.Thread(target=run, args=(wait_for_others,))
    others = [threading.Thread(target=run, args=(work,)) for work in (log.put(1), interrupted_once)]
    leader.start()
    assert leads.wait(30)
    for thread in others:
        thread.start()
    for thread in (leader, *others):
        thread.join(30)
        assert not thread.is_alive()
    assert raised == [KeyboardInterrupt]
    assert log.numbers == [1, 2]


class DriverError(Exception):
    """An error of a driver: MySQL's begin with a number, PostgreSQL's have an SQLSTATE."""

    def __init__(self, *args: object, pgcode: str | None = None) -> None:
        super().__init__(*args)
        self.pgcode = pgcode


@pytest.mark.parametrize(
    ("error", "times", "tries"),
    [
        (DriverError(1213, "Deadlock found"), 2, 3),
        (DriverError("deadlock detected", pgcode="40P01"), 2, 3),
        (DriverError(1213, "Deadlock found"), 100, DEADLOCKS + 1),
        (DriverError(1205, "Lock wait timeout exceeded"), 100, 1),
    ],
)
def test_work_is_repeated_after_a_deadlock(
    log: Log, error: DriverError, times: int, tries: int
) -> None:
    """Work is repeated a few times after a deadlock, and not after other errors."""
    done: list[int] = []

    def work(connection: Any) -> None:
        done.append(1)
        log.put(7)(connection)
        if len(done) <= times:
            raise OperationalError("insert", {}, error)

    if times < 100:
        log.transactions.run(work)
    else:
        with pytest.raises(OperationalError):
            log.transactions.run(work)
    assert len(done) == tries
    assert log.numbers == ([7] if times < 100 else [])


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    """The error of a missing database is raised to the caller."""
    transactions = SharedTransactions(
        sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'no folder' / 'x.db'}")
    )
    with pytest.raises(sqlalchemy.exc.OperationalError):
        transactions.run(lambda connection: None)


def test_other_writers_find_the_database_unlocked(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is left unlocked now and then for as long as SQLite's writers wait."""
    from mlflow_wandb_plugin.mlflow_access.sql import transactions as mlflow_transactions

    pauses: list[float] = []
    monkeypatch.setattr(mlflow_transactions.time, "sleep", pauses.append)
    log.transactions.run(log.put(1))
    log.transactions.run(log.put(2))
    assert pauses == []
    monkeypatch.setattr(mlflow_transactions, "HELD_S", 0.0)
    monkeypatch.setattr(mlflow_transactions, "FREE_S", 100.0)
    log.transactions.run(log.put(3))
    assert len(pauses) == 1
    assert 0 < pauses[0] <= 100
