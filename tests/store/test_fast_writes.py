"""A store that writes fast has the rows and the errors of MLflow's own store."""

from __future__ import annotations

import copy
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, metrics_of
from mlflow_wandb_plugin.mlflow_access.sql import sessions
from mlflow_wandb_plugin.mlflow_access.sql.dialects import PostgreSql
from mlflow_wandb_plugin.store import fast_writes
from mlflow_wandb_plugin.store.fast_writes import FastWrites, write_fast
from tests.support.environment import isolated
from tests.support.mlflow_features import IS_3_1, needs_workspaces
from tests.support.postgres import postgres_server
from tests.support.processes import started, wait_until
from tests.support.stores import copy_store, count_commits


def spelled(text: str) -> str:
    """A long text by its length: Hypothesis shows strategies, and warns of long ones."""
    count, _, letter = text.partition(" ")
    return letter * int(count) if letter else text


TABLES = {
    "metrics": "run_uuid, key, step, timestamp, value, is_nan",
    "latest_metrics": "run_uuid, key, step, timestamp, value, is_nan",
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "runs": "run_uuid, name, status, lifecycle_stage",
}
NAMES = st.sampled_from(
    ["a", "b", "loss/train", "x:y", "ä", "k" * 250, "k" * 251, "..", "a//b", ""]
)
GOOD_NAMES = st.sampled_from(["a", "b", "loss/train", "ä"])
SPECIAL = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1, True, None, "1", 2**60)
SPECIAL_FLOATS = st.sampled_from([0.0, -0.0, float("nan"), float("inf"), float("-inf")])
VALUES = st.one_of(st.sampled_from(SPECIAL), st.floats(width=16))
TIMES = st.sampled_from([0, 1, 2, 2, 3, -1, 2**63 - 1, 1.5, None])
STEPS = st.sampled_from([0, 1, 2, 2, -5, 2**63 - 1, -(2**63), 2.5, "1"])
ODD_METRICS = st.builds(Metric, NAMES, VALUES, TIMES, STEPS)
METRICS = st.builds(Metric, GOOD_NAMES, st.floats(width=16), st.integers(0, 3), st.integers(0, 3))
TEXTS = st.sampled_from(["", "1", "2", "6001 v", "8001 t", "ünï\n"]).map(spelled)
PARAMS = st.builds(Param, NAMES, TEXTS)
GOOD_PARAMS = st.builds(Param, GOOD_NAMES, st.sampled_from(["1", "2"]))
TAGS = st.builds(RunTag, st.one_of(NAMES, st.just("mlflow.runName")), TEXTS)
GOOD_TAGS = st.builds(RunTag, GOOD_NAMES, TEXTS)
INTEGERS = st.sampled_from([0, 1, 2, 2, 2**63 - 1])
COLUMNS = st.lists(
    st.tuples(st.one_of(SPECIAL_FLOATS, st.floats(width=16)), INTEGERS, INTEGERS),
    min_size=1,
    max_size=6,
)
ODD_COLUMNS = st.lists(
    st.tuples(SPECIAL_FLOATS, st.sampled_from([1, -1]), INTEGERS), min_size=1, max_size=4
)
BLOCKS = st.one_of(
    st.dictionaries(GOOD_NAMES, COLUMNS, max_size=4),
    st.dictionaries(NAMES, st.one_of(COLUMNS, ODD_COLUMNS), max_size=4),
).map(
    lambda names: [
        Points(name, *map(list, zip(*points, strict=True))) for name, points in names.items()
    ]
)
RUNS = st.sampled_from(["one", "one", "two", "deleted", "missing", ""])
CALLS = st.one_of(
    st.tuples(st.just("log_metric"), RUNS, st.one_of(METRICS, ODD_METRICS)),
    st.tuples(st.just("log_param"), RUNS, st.one_of(GOOD_PARAMS, PARAMS)),
    st.tuples(st.just("set_tag"), RUNS, st.one_of(GOOD_TAGS, TAGS)),
    st.tuples(st.just("log_points"), RUNS, BLOCKS),
    st.tuples(
        st.just("log_batch"),
        RUNS,
        st.lists(st.one_of(METRICS, METRICS, METRICS, ODD_METRICS), max_size=12),
        st.lists(st.one_of(GOOD_PARAMS, GOOD_PARAMS, PARAMS), max_size=3),
        st.lists(st.one_of(GOOD_TAGS, GOOD_TAGS, TAGS), max_size=3),
    ),
)


class Pair(NamedTuple):
    """A plain store and a fast one, of databases with the same rows."""

    plain: Any
    fast: Any

    def create_run(self) -> str:
        """A run of the same id in both."""
        run_id: str = self.plain.create_run("0", "user", 1, [], "run").info.run_id
        for table in ("runs", "tags"):
            with self.plain.engine.connect() as source, self.fast.engine.begin() as target:
                query = sqlalchemy.text(f"SELECT * FROM {table} WHERE run_uuid = :run")
                for row in source.execute(query, {"run": run_id}).mappings():
                    into = f"INSERT INTO {table} ({', '.join(row)}) VALUES (:{', :'.join(row)})"
                    target.execute(sqlalchemy.text(into), dict(row))
        return run_id

    def check_equal(self) -> None:
        """Every table has the same rows in both."""
        for table, columns in TABLES.items():
            plain, fast = (rows(store.engine, table, columns) for store in self)
            assert fast == plain, table


def rows(engine: Any, table: str, columns: str) -> list[str]:
    # As text: 0.0 and -0.0 are equal, and so are 1 and True.
    with engine.connect() as connection:
        return sorted(map(repr, connection.exec_driver_sql(f"SELECT {columns} FROM {table}")))


def outcome(call: Callable[[], Any]) -> tuple[str, ...]:
    try:
        return ("returned", repr(call()))
    except MlflowException as error:
        return (type(error).__name__, error.error_code, str(error.message))
    except Exception as error:
        return (type(error).__name__, str(error))


@pytest.fixture(scope="module")
def sqlite_pair(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    uris = [copy_store(empty_store, folder / f"{name}.db") for name in ("plain", "fast")]
    plain, fast = (SqlAlchemyStore(uri, str(folder)) for uri in uris)
    yield Pair(plain, write_fast(fast))
    plain.engine.dispose()
    fast.engine.dispose()


@pytest.fixture(scope="module")
def postgres_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = str(tmp_path_factory.mktemp("pair"))
    with postgres_server() as first, postgres_server() as second, pytest.MonkeyPatch.context() as m:
        # So that some of the small batches are copied, and some are not.
        m.setattr(PostgreSql, "COPIED", 3)
        plain, fast = SqlAlchemyStore(first, folder), SqlAlchemyStore(second, folder)
        yield Pair(plain, write_fast(fast))
        plain.engine.dispose()
        fast.engine.dispose()


def method_of(store: Any, name: str) -> Callable[..., Any]:
    """A method of a store; what does in a plain one what `log_points` does in a fast one."""
    if name == "log_points" and not isinstance(store, FastWrites):
        return lambda run_id, blocks: store.log_batch(run_id, list(metrics_of(blocks)), [], [])
    method: Callable[..., Any] = getattr(store, name)
    return method


def play(pair: Pair, calls: list[Any]) -> None:
    """The same calls on both, one after the other; what each raises is compared."""
    assert isinstance(pair.fast, FastWrites)
    named = {name: pair.create_run() for name in ("one", "two", "deleted")}
    for store in pair:
        store.delete_run(named["deleted"])
    for method, run, *arguments in calls:
        run_id = named.get(run, run)
        plain, fast = (
            outcome(partial(method_of(store, method), run_id, *copy.deepcopy(arguments)))
            for store in pair
        )
        assert fast == plain, (method, run, arguments)
    pair.check_equal()


@given(st.lists(CALLS, max_size=8))
@settings(max_examples=30)
@pytest.mark.skipif(IS_3_1, reason="MLflow 3.1 refuses a NaN that the run has already")
def test_rows_and_errors_are_mlflows(sqlite_pair: Pair, calls: list[Any]) -> None:
    """Valid and invalid calls, repeats, deleted and missing runs, in SQLite."""
    play(sqlite_pair, calls)


@pytest.mark.slow
@given(st.lists(CALLS, max_size=8))
@settings(max_examples=15)
@pytest.mark.skipif(IS_3_1, reason="MLflow 3.1 refuses a NaN that the run has already")
def test_rows_and_errors_are_mlflows_in_postgresql(postgres_pair: Pair, calls: list[Any]) -> None:
    """The same calls in PostgreSQL."""
    play(postgres_pair, calls)


def test_plain_calls_are_written_fast(sqlite_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own methods are not called for what is plain and valid, also at MLflow's limits."""
    for name in ("log_batch", "log_metric", "log_param", "set_tag"):
        monkeypatch.setattr(SqlAlchemyStore, name, lambda *_: pytest.fail("MLflow's method"))
    run_id = sqlite_pair.create_run()
    store = sqlite_pair.fast
    store.log_batch(run_id, [Metric("a", n / 7, n, n) for n in range(800)], [], [])
    params, tags = [Param(f"p{n}", "v" * 6000) for n in range(100)], [RunTag("t", "t" * 8000)]
    store.log_batch(run_id, [Metric("a", float("nan"), 0, 801)], params, tags)
    store.log_batch(run_id, [], params, tags)
    store.log_metric(run_id, Metric("k" * 250, float("-inf"), 0, 0))
    store.log_param(run_id, Param("p0", "v" * 6000))
    store.set_tag(run_id, RunTag("t", "other"))
    run = store.get_run(run_id)
    assert (len(run.data.params), run.data.tags["t"]) == (100, "other")
    assert len(store.get_metric_history(run_id, "a")) == 801


@pytest.mark.parametrize("kind", ["model", "name", "subclass", "generator", "replaced"])
def test_special_cases_are_mlflows(
    kind: str, sqlite_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics of models, the run's name, classes and arguments that are not MLflow's, and methods
    that somebody has replaced."""

    class Special(Metric):
        pass

    run_id = sqlite_pair.create_run()
    monkeypatch.setattr(fast_writes.GroupCommit, "write", lambda *_: pytest.fail("written fast"))
    store = sqlite_pair.fast
    if kind == "model":
        model = store.create_logged_model("0", "model", run_id)
        store.log_metric(run_id, Metric("a", 1.0, 1, 1, model_id=model.model_id))
        assert [each.key for each in store.get_logged_model(model.model_id).metrics] == ["a"]
    elif kind == "name":
        store.log_batch(run_id, [], [], [RunTag("mlflow.runName", "other")])
        store.set_tag(run_id, RunTag("mlflow.runName", "new name"))
        assert store.get_run(run_id).info.run_name == "new name"
    elif kind == "subclass":
        store.log_batch(run_id, [Special("a", 1.0, 1, 1)], [], [])
    elif kind == "generator":
        with pytest.raises(TypeError, match="has no len"):
            store.log_batch(run_id, (Metric("a", 1.0, 1, n) for n in range(2)), [], [])
    else:
        seen: list[Any] = []
        monkeypatch.setattr(SqlAlchemyStore, "_log_metrics", lambda *given: seen.append(given))
        store.log_batch(run_id, [Metric("a", 1.0, 1, 1)], [], [])
        assert len(seen) == 1


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Iterator[Any]:
    """A fast store of the test's own, in ``mlflow.db``."""
    store = SqlAlchemyStore(copy_store(empty_store, tmp_path / "mlflow.db"), str(tmp_path))
    yield write_fast(store)
    store.engine.dispose()


@pytest.fixture
def locked(store: Any, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Another writer, which holds the lock until it is committed."""
    writer = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    yield writer
    writer.close()


def run_of(store: Any) -> str:
    return str(store.create_run("0", "user", 1, [], "run").info.run_id)


def waiting(store: Any, count: int) -> Callable[[], bool]:
    group = fast_writes._group(store.engine)
    return lambda: group._led and len(group._waiting) >= count


def at_once(store: Any, locking: sqlite3.Connection, calls: list[Callable[[], Any]]) -> list[Any]:
    """Outcomes of calls that all wait for the lock before the first one gets it."""
    with ThreadPoolExecutor(len(calls)) as pool:
        outcomes = [pool.submit(outcome, call) for call in calls]
        wait_until(waiting(store, len(calls) - 1), what="the calls")
        locking.execute("COMMIT")
        return [each.result() for each in outcomes]


def test_concurrent_calls_share_a_transaction_and_not_their_errors(
    store: Any, empty_store: Path, tmp_path: Path
) -> None:
    """Of twelve calls at once, one changes a param, one has no run and one breaks a constraint of
    the database: these have MLflow's errors, the other nine are committed."""
    one, other = run_of(store), run_of(store)
    store.log_param(one, Param("p", "1"))
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_bad BEFORE INSERT ON tags WHEN NEW.key = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'no bad tags'); END"
        )
    locking = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    locking.execute("BEGIN IMMEDIATE")
    calls: list[Callable[[], Any]] = [
        lambda step=step: store.log_batch(
            (one, other)[step % 2], [Metric("a", 1.0, 1, step), Metric("b", 2.0, 1, step)], [], []
        )
        for step in range(9)
    ]
    calls += [
        lambda: store.log_param(one, Param("p", "2")),
        lambda: store.log_metric("missing", Metric("a", 1.0, 1, 1)),
        lambda: store.set_tag(one, RunTag("bad", "1")),
    ]
    found = at_once(store, locking, calls)
    locking.close()
    assert found[:9] == [("returned", "None")] * 9
    assert found[9][1] == "INVALID_PARAMETER_VALUE"
    assert "Changing param values is not allowed" in found[9][2]
    assert found[10] == ("MlflowException", "RESOURCE_DOES_NOT_EXIST",
                         "Run with id=missing not found")  # fmt: skip
    assert found[11][1] == "BAD_REQUEST"
    assert "no bad tags" in found[11][2]
    steps = {point.step for run in (one, other) for point in store.get_metric_history(run, "a")}
    assert steps == set(range(9))
    assert store.get_run(one).data.metrics == {"a": 1.0, "b": 2.0}
    latest = {m.key: m.step for m in store.get_run(one).data._metric_objs}
    assert latest == {"a": 8, "b": 8}
    assert store.get_run(one).data.params == {"p": "1"}


def test_points_in_columns_share_a_transaction_with_others(
    store: Any, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and columns of the same metric at once: the latest of all of them is the latest."""
    locked.execute("COMMIT")
    run_id = run_of(store)
    locked.execute("BEGIN IMMEDIATE")
    commits = count_commits(monkeypatch)
    calls: list[Callable[[], Any]] = [
        lambda step=step: store.log_metric(run_id, Metric("a", step / 7, 1, step))
        for step in range(5)
    ]
    calls += [
        lambda start=start: store.log_points(
            run_id, [Points(name, [0.5] * 400, [1] * 400, list(range(start, start + 400)))
                     for name in ("a", "b")]
        )
        for start in (800, 0, 400)
    ]  # fmt: skip
    assert at_once(store, locked, calls) == [("returned", "None")] * 8
    assert len(commits) == 1
    latest = {m.key: (m.step, m.value) for m in store.get_run(run_id).data._metric_objs}
    assert latest == {"a": (1199, 0.5), "b": (1199, 0.5)}
    assert [len(store.get_metric_history(run_id, name)) for name in ("a", "b")] == [1205, 1200]


@pytest.mark.slow
def test_two_servers_that_write_the_same_points_at_once(
    postgres_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In opposite orders, so that their transactions wait for each other: those that PostgreSQL
    rolls back are repeated, and all points are there once."""
    repeated: list[Any] = []
    original = fast_writes.GroupCommit._commit_alone
    monkeypatch.setattr(
        fast_writes.GroupCommit,
        "_commit_alone",
        lambda group, call: (repeated.append(call), original(group, call)),
    )
    meeting = threading.Barrier(2, timeout=120)
    alone: set[int] = set()
    insert = PostgreSql.insert

    def insert_one_first(
        dialect: PostgreSql, connection: Any, run_id: str, part: Sequence[Points]
    ) -> None:
        """Go on once the other transaction has one of the blocks, too; not when it is repeated."""
        insert(dialect, connection, run_id, part[:1])
        if threading.get_ident() not in alone:
            alone.add(threading.get_ident())
            meeting.wait()
        insert(dialect, connection, run_id, part[1:])

    monkeypatch.setattr(PostgreSql, "insert", insert_one_first)
    first = postgres_pair.fast
    second = write_fast(SqlAlchemyStore(first.db_uri, "artifacts"))
    # Stores of one process share an engine, and with it their transactions.
    monkeypatch.setattr(second, "engine", sqlalchemy.create_engine(first.db_uri))
    run_id = run_of(first)
    count, rounds = 400, 2

    def log(store: Any, order: int) -> None:
        for number in range(rounds):
            steps = list(range(number * count, (number + 1) * count))
            blocks = [Points(f"m{n}", [0.5] * count, steps, steps) for n in range(10)]
            meeting.wait()
            alone.discard(threading.get_ident())
            store.log_points(run_id, blocks[::order])

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(log, first, 1), pool.submit(log, second, -1)]:
            future.result()
    assert len(repeated) >= rounds
    for n in range(10):
        assert len(first.get_metric_history(run_id, f"m{n}")) == rounds * count
    latest = {(m.key, m.step) for m in first.get_run(run_id).data._metric_objs}
    assert latest == {(f"m{n}", rounds * count - 1) for n in range(10)}
    second.engine.dispose()


def test_points_in_columns_that_the_database_refuses_are_mlflows(store: Any) -> None:
    """They are written in batches of MLflow's, one of which fails, with its error."""
    run_id = run_of(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_bad BEFORE INSERT ON metrics WHEN NEW.key = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'no bad metrics'); END"
        )
    numbers = list(range(1500))
    good = Points("a", [0.5] * 1500, numbers, numbers)
    with pytest.raises(MlflowException, match="no bad metrics"):
        store.log_points(run_id, [good, Points("bad", [0.5], [1], [1])])
    assert len(store.get_metric_history(run_id, "a")) == 1000
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER no_bad")
    store.log_points(run_id, [good, Points("bad", [0.5], [1], [1])])
    assert store.get_run(run_id).data.metrics == {"a": 0.5, "bad": 0.5}
    assert len(store.get_metric_history(run_id, "a")) == 1500


def test_waiting_calls_go_into_one_transaction(
    store: Any, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits when a transaction begins is committed with it."""
    locked.execute("COMMIT")
    run_id = run_of(store)
    locked.execute("BEGIN IMMEDIATE")
    commits = count_commits(monkeypatch)
    calls = [
        lambda step=step: store.log_metric(run_id, Metric("a", 1.0, 1, step)) for step in range(20)
    ]
    assert at_once(store, locked, calls) == [("returned", "None")] * 20
    assert len(commits) == 1
    assert len(store.get_metric_history(run_id, "a")) == 20


def test_params_of_calls_at_once(store: Any, locked: sqlite3.Connection) -> None:
    """Of two values of one param in a common transaction, the second one is refused; equal ones
    are not."""
    locked.execute("COMMIT")
    run_id = run_of(store)
    locked.execute("BEGIN IMMEDIATE")
    values = ["1", "1", "2", "1"]
    calls = [lambda value=value: store.log_param(run_id, Param("p", value)) for value in values]
    found = at_once(store, locked, calls)
    refused = [code for name, code, *_ in found if name == "MlflowException"]
    [value] = store.get_run(run_id).data.params.values()
    assert refused == ["INVALID_PARAMETER_VALUE"] * (4 - values.count(value))


def test_lock_of_another_writer(
    store: Any, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it in vain gets MLflow's error, and the next call works."""
    blocks = [Points("b", [1.0, 2.0], [1, 1], [1, 2])]
    locked.execute("COMMIT")
    run_id = run_of(store)
    store.engine.dispose()
    monkeypatch.setattr(sessions, "BUSY_MS", 50)
    locked.execute("BEGIN IMMEDIATE")
    with pytest.raises(MlflowException, match="database is locked") as caught:
        store.log_metric(run_id, Metric("a", 1.0, 1, 1))
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"
    with pytest.raises(MlflowException, match="database is locked") as caught:
        store.log_points(run_id, blocks)
    assert caught.value.error_code == "TEMPORARILY_UNAVAILABLE"
    locked.execute("COMMIT")
    store.log_metric(run_id, Metric("a", 1.0, 1, 2))
    assert [point.step for point in store.get_metric_history(run_id, "a")] == [2]
    store.log_points(run_id, blocks)
    assert [point.step for point in store.get_metric_history(run_id, "b")] == [1, 2]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE metrics ADD COLUMN more INTEGER",
        "ALTER TABLE tags RENAME COLUMN value TO content",
        "ALTER TABLE latest_metrics ADD COLUMN more INTEGER",
        "ALTER TABLE params ADD COLUMN more INTEGER",
    ],
)
def test_tables_of_an_unknown_shape(
    statement: str, empty_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store stays MLflow's, and one line says why."""
    uri = copy_store(empty_store, tmp_path / "other.db")
    store = SqlAlchemyStore(uri, str(tmp_path))
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert type(write_fast(store)) is SqlAlchemyStore
    store.engine.dispose()
    table = statement.split()[2]
    assert f"the columns of the database's table {table} differ" in caplog.text
    assert "MLflow's own methods write to this store" in caplog.text


def test_tables_that_change_beneath_an_open_store(store: Any) -> None:
    """What then fails is done by MLflow's method."""
    run_id = run_of(store)
    store.log_metric(run_id, Metric("a", 1.0, 1, 1))
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE latest_metrics ADD COLUMN more INTEGER")
        connection.exec_driver_sql(
            "CREATE UNIQUE INDEX odd ON latest_metrics (run_uuid, key, step)"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER once BEFORE INSERT ON metrics WHEN NEW.step = 2 AND NEW.run_uuid = "
            "(SELECT run_uuid FROM runs LIMIT 1) BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
    with pytest.raises(MlflowException, match="no"):
        store.log_metric(run_id, Metric("a", 1.0, 1, 2))
    store.log_metric(run_id, Metric("a", 1.0, 1, 3))
    assert [point.step for point in store.get_metric_history(run_id, "a")] == [1, 3]


def test_a_subclass_of_mlflows_store_stays_what_it_is(empty_store: Path, tmp_path: Path) -> None:
    """Its methods may do something else."""

    class Other(SqlAlchemyStore):
        pass

    store = Other(copy_store(empty_store, tmp_path / "other.db"), str(tmp_path))
    assert type(write_fast(store)) is Other
    store.engine.dispose()


@needs_workspaces
@pytest.mark.skipif(IS_3_1, reason="no workspaces")
def test_runs_of_other_workspaces_are_not_found(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of workspaces refuses as MLflow's does, and writes to its own runs fast."""
    from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
    from mlflow.utils.workspace_context import WorkspaceContext

    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    uri = copy_store(empty_store, tmp_path / "workspaces.db")
    store = write_fast(WorkspaceAwareSqlAlchemyStore(uri, str(tmp_path)))
    written: list[bool] = []
    group = fast_writes._group(store.engine)
    original = group.write
    monkeypatch.setattr(
        group, "write", lambda batch: written.append(original(batch)) or written[-1]
    )
    with WorkspaceContext("one"):
        experiment = store.create_experiment("of one")
        run_id = store.create_run(experiment, "user", 1, [], "run").info.run_id
        store.log_metric(run_id, Metric("a", 1.0, 1, 1))
    with WorkspaceContext("two"):
        with pytest.raises(MlflowException, match="not found"):
            store.log_metric(run_id, Metric("a", 1.0, 1, 2))
    with pytest.raises(MlflowException, match="workspace"):
        store.log_metric(run_id, Metric("a", 1.0, 1, 3))
    with WorkspaceContext("one"):
        assert [point.step for point in store.get_metric_history(run_id, "a")] == [1]
    assert written == [True, False]
    store.engine.dispose()


CHILD = """
import sys, threading
from mlflow.entities import Metric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow_wandb_plugin.store.fast_writes import write_fast
uri, run_id = sys.argv[1:]
store = write_fast(SqlAlchemyStore(uri, "artifacts"))
def log(number):
    for step in range(1_000_000):
        both = [Metric(f"k{number}", 1.0, 1, step), Metric("all", 1.0, 1, step)]
        store.log_batch(run_id, both, [], [])
        sys.stdout.write(f"{number} {step}\\n")
        sys.stdout.flush()
for number in range(8):
    threading.Thread(target=log, args=(number,)).start()
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill(store: Any, tmp_path: Path) -> None:
    """A process with eight logging threads is killed at a random time: each call that had returned
    is in the database, and of each other call all or nothing."""
    run_id = run_of(store)
    command = [sys.executable, "-c", CHILD, store.db_uri, run_id]
    with started(command, isolated(tmp_path), tmp_path) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.Random(7).randrange(200, 400))]
        os.killpg(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    acknowledged = {tuple(map(int, line.split())) for line in lines if line.endswith("\n")}
    assert len(acknowledged) >= 200
    stored = {
        (number, point.step)
        for number in range(8)
        for point in store.get_metric_history(run_id, f"k{number}")
    }
    assert acknowledged <= stored
    both = {point.step for point in store.get_metric_history(run_id, "all")}
    assert both == {step for _, step in stored}


def test_a_forked_child_writes(store: Any, tmp_path: Path) -> None:
    """A child does not wait for the threads of its parent, one of which was leading; neither harms
    the connection of the other."""
    code = (
        "import os, sys\n"
        "from mlflow.entities import Metric\n"
        "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
        "from mlflow_wandb_plugin.store import fast_writes\n"
        "uri, run_id = sys.argv[1:]\n"
        "store = fast_writes.write_fast(SqlAlchemyStore(uri, 'artifacts'))\n"
        "store.log_metric(run_id, Metric('a', 1.0, 1, 1))\n"
        "group = fast_writes._group(store.engine)\n"
        "group._led = True\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    store.log_metric(run_id, Metric('a', 1.0, 1, 2))\n"
        "    os._exit(0)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "group._led = False\n"
        "store.log_metric(run_id, Metric('a', 1.0, 1, 3))\n"
        "sys.exit(status)\n"
    )
    run_id = run_of(store)
    subprocess.run(
        [sys.executable, "-c", code, store.db_uri, run_id],
        env=isolated(tmp_path), cwd=tmp_path, check=True, timeout=120,
    )  # fmt: skip
    assert [point.step for point in store.get_metric_history(run_id, "a")] == [1, 2, 3]


def test_an_interrupted_leader_leaves_the_others_their_calls(
    store: Any, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt of the thread that leads reaches it alone."""
    locked.execute("COMMIT")
    run_id = run_of(store)
    group = fast_writes._group(store.engine)
    original, interrupted = group._writer.write, threading.Event()

    def write(connection: Any, batches: Any) -> Any:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        return original(connection, batches)

    monkeypatch.setattr(group._writer, "write", write)
    locked.execute("BEGIN IMMEDIATE")
    found: list[str] = []

    def log(step: int) -> None:
        try:
            store.log_metric(run_id, Metric("a", 1.0, 1, step))
            found.append("returned")
        except KeyboardInterrupt:
            found.append("interrupted")

    threads = [threading.Thread(target=log, args=(step,)) for step in range(6)]
    for thread in threads:
        thread.start()
    wait_until(waiting(store, 5), what="the calls")
    locked.execute("COMMIT")
    for thread in threads:
        thread.join(60)
    assert sorted(found) == ["interrupted"] + ["returned"] * 5
    assert len(store.get_metric_history(run_id, "a")) == 5


@pytest.mark.parametrize("to_lead", [False, True])
def test_an_interrupted_call_that_waits_leaves_the_others_theirs(
    store: Any, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, to_lead: bool
) -> None:
    """An interrupt while it waits, also at the moment at which it would have to lead, ends this
    call alone."""
    locked.execute("COMMIT")
    run_id = run_of(store)
    group = fast_writes._group(store.engine)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_when_waiting() -> None:
        wait_until(waiting(store, 1), what="the call")
        if to_lead:
            # As if the leader had handed over just before.
            group._waiting[0].wake = Interrupted()  # type: ignore[assignment]
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    locked.execute("BEGIN IMMEDIATE")
    first = threading.Thread(target=log_of(store, run_id, 1))
    first.start()
    wait_until(lambda: group._led and not group._waiting, what="the leader")
    threading.Thread(target=interrupt_when_waiting).start()
    with pytest.raises(KeyboardInterrupt):
        store.log_metric(run_id, Metric("a", 1.0, 1, 2))
    signal.signal(signal.SIGUSR1, before)
    locked.execute("COMMIT")
    first.join(60)
    store.log_metric(run_id, Metric("a", 1.0, 1, 3))
    assert [point.step for point in store.get_metric_history(run_id, "a")] == [1, 3]


class Interrupted:
    """A lock that was released just before its thread was interrupted."""

    def acquire(self, blocking: bool = True) -> bool:
        return True

    def release(self) -> None:
        """It was."""


def log_of(store: Any, run_id: str, step: int) -> Callable[[], None]:
    return lambda: store.log_metric(run_id, Metric("a", 1.0, 1, step))


def test_random_ids_do_not_match(store: Any) -> None:
    """An id that differs in case is another run's."""
    run_id = run_of(store)
    with pytest.raises(MlflowException, match="not found"):
        store.log_metric(run_id.upper() if run_id != run_id.upper() else uuid.uuid4().hex,
                         Metric("a", 1.0, 1, 1))  # fmt: skip


def test_copies_of_the_database_are_independent(store: Any, tmp_path: Path) -> None:
    """Two stores of one process have transactions of their own."""
    run_id = run_of(store)
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "copy.db")
    other = write_fast(SqlAlchemyStore(f"sqlite:///{tmp_path / 'copy.db'}", str(tmp_path)))
    store.log_metric(run_id, Metric("a", 1.0, 1, 1))
    other.log_metric(run_id, Metric("a", 1.0, 1, 2))
    assert [point.step for point in store.get_metric_history(run_id, "a")] == [1]
    assert [point.step for point in other.get_metric_history(run_id, "a")] == [2]
    other.engine.dispose()
