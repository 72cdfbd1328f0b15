"""A store that reads fast answers as MLflow's own store does."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_wandb_plugin.store.fast_reads import RUNS_A_QUERY
from mlflow_wandb_plugin.store.fast_writes import FastWrites, write_fast
from tests.support.postgres import postgres_server
from tests.support.stores import copy_store

VALUES = (0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf"), -3.25)


class Stores(NamedTuple):
    """MLflow's own store and a fast one, of one database."""

    plain: Any
    fast: Any


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stores(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    empty_store: Path,
) -> Iterator[Stores]:
    folder = tmp_path_factory.mktemp("reads")
    if request.param == "sqlite":
        yield _stores(copy_store(empty_store, folder / "mlflow.db"), folder)
        return
    with postgres_server() as uri:
        found = _stores(uri, folder)
        yield found
        for store in found:
            store.engine.dispose()


def _stores(uri: str, folder: Path) -> Stores:
    plain, fast = (SqlAlchemyStore(uri, str(folder)) for _ in range(2))
    fast = write_fast(fast)
    assert isinstance(fast, FastWrites)
    _fill(plain)
    return Stores(plain, fast)


def _fill(store: Any) -> None:
    """Runs with repeated points, odd values, no name, no data, and a deleted one."""
    chance = random.Random(7)
    for number in range(40):
        run = store.create_run("0", f"user{number % 3}", number, [], f"run {number}")
        run_id = run.info.run_id
        if number % 5 == 4:
            continue
        store.log_batch(
            run_id,
            [
                Metric(key, chance.choice(VALUES), chance.randrange(4), chance.randrange(-2, 4))
                for key in "abc"
                for _ in range(chance.randrange(9))
            ],
            [Param(f"p{index}", f"v{chance.randrange(3)}") for index in range(number % 4)],
            [RunTag(f"t{index}", "x" * index) for index in range(number % 3)],
        )
        if number % 7 == 3:
            store.delete_run(run_id)
        if number % 11 == 5:
            with store.engine.begin() as connection:
                connection.exec_driver_sql(f"UPDATE runs SET name = '' WHERE run_uuid = '{run_id}'")


def _run_ids(store: Any) -> list[str]:
    found = store.search_runs(["0"], "", ViewType.ALL, 1000)
    return [run.info.run_id for run in found]


def _told(points: Any) -> list[str]:
    """All that points say, as text: 0.0 and -0.0 differ, and NaN equals itself."""
    return [repr(dict(point)) for point in points]


def _run_told(run: Any) -> list[str]:
    """All that a run says, and the order of its lists."""
    return [repr(run.to_dictionary()), str(run.to_proto())]


@pytest.mark.parametrize("page", [None, 1, 2, 7, 1000])
def test_a_metrics_history_is_read_in_the_same_order_and_pages(
    stores: Stores, page: int | None
) -> None:
    """Points, their order among equal times, NaN and infinities, and every page's token; keys and
    runs without points, too."""
    for run_id, key in itertools.product([*_run_ids(stores.plain), "0" * 32], "abz"):
        token, pages = None, 0
        while True:
            answers = []
            for store in stores:
                try:
                    answers.append(store.get_metric_history(run_id, key, page, token))
                except MlflowException as error:
                    answers.append((error.error_code, error.message))
            plain, fast = answers
            if isinstance(plain, tuple):
                assert fast == plain
                break
            assert _told(fast) == _told(plain)
            assert fast.token == plain.token
            token, pages = plain.token, pages + 1
            if token is None or pages > 40:
                break
        assert pages <= 40


def test_a_token_that_is_none_of_mlflows_is_refused_alike(stores: Stores) -> None:
    """With MLflow's error."""
    run_id = _run_ids(stores.plain)[0]
    errors = []
    for store in stores:
        with pytest.raises(MlflowException) as caught:
            store.get_metric_history(run_id, "a", 5, "no token")
        errors.append((caught.value.error_code, caught.value.message))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("", ["attributes.start_time DESC"]),
        ("metrics.a > 0", ["metrics.b DESC", "params.p1"]),
        ("params.p1 = 'v1' and tags.t1 = 'x'", ["tags.t1"]),
        ("attributes.run_name LIKE 'run 1%'", None),
    ],
)
def test_runs_are_found_in_the_same_order_and_pages(
    stores: Stores, query: str, order: list[str] | None
) -> None:
    """With all their data: latest metrics, params, tags, a name that is in a tag alone."""
    views = (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY, ViewType.ALL)
    for view, page in itertools.product(views, (3, 1000)):
        token = None
        for _ in range(20):
            plain, fast = (
                store.search_runs(["0"], query, view, page, order, token) for store in stores
            )
            assert [_run_told(run) for run in fast] == [_run_told(run) for run in plain]
            assert fast.token == plain.token
            token = plain.token
            if token is None:
                break
        assert token is None


def test_runs_beyond_one_query_have_their_data(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are more runs than are asked for at a time."""
    monkeypatch.setattr("mlflow_wandb_plugin.store.fast_reads.RUNS_A_QUERY", 4)
    assert RUNS_A_QUERY > 4
    found = _stores(copy_store(empty_store, tmp_path / "mlflow.db"), tmp_path)
    plain, fast = (store.search_runs(["0"], "", ViewType.ALL, 1000) for store in found)
    assert len(plain) == 40
    assert [_run_told(run) for run in fast] == [_run_told(run) for run in plain]


def test_one_run_is_read_whole(stores: Stores) -> None:
    """`get_run` loads data as MLflow does, also after a search in the same thread."""
    for run_id in _run_ids(stores.fast):
        plain, fast = (store.get_run(run_id) for store in stores)
        assert _run_told(fast) == _run_told(plain)
