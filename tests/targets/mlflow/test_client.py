"""Errors of MLflow, its servers and databases are sorted into unavailable and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import requests_mock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import QueuePool

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetError, TargetUnavailableError, UsageError
from mlflow_wandb_plugin.targets.mlflow.client import Client, PendingItems, RefusedError, translated
from mlflow_wandb_plugin.targets.mlflow.experiments import Experiments

HOST = "http://mlflow.test:5000"
LOG_BATCH = f"{HOST}/api/2.0/mlflow/runs/log-batch"
RUN = "0" * 32


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[requests_mock.Mocker]:
    """A server with answers that the test sets; other requests are errors."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with requests_mock.Mocker() as mocker:
        yield mocker


def raising(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


def patient(pauses: list[float] | None = None) -> Client:
    """A client that repeats at once and records how long it would have waited."""
    kept = [] if pauses is None else pauses
    return Client(HOST, Backoff(None, lambda seconds: (kept.append(seconds), len(kept) < 20)[1]))


def rest(code: str) -> RestException:
    return RestException({"error_code": code, "message": "no"})


@pytest.mark.parametrize(
    "code",
    ["INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST",
     "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND",
     "INVALID_STATE", "FEATURE_DISABLED"],
)  # fmt: skip
def test_refusals_are_final(code: str) -> None:
    """An error that would occur again is a RefusedError with MLflow's code."""
    with pytest.raises(RefusedError, match="no") as caught:
        translated(raising(rest(code)))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "code",
    ["INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
     "DEADLINE_EXCEEDED", "SOMETHING_NEW"],
)  # fmt: skip
def test_temporary_errors_are_unavailable(code: str) -> None:
    """Limits, outages and unknown codes are errors that may pass."""
    with pytest.raises(TargetUnavailableError):
        translated(raising(rest(code)))


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.Timeout("slow"),
        OperationalError("select", {}, Exception("database is locked")),
        ConnectionResetError("gone"),
    ],
)
def test_a_target_that_is_down_is_unavailable(error: Exception) -> None:
    """Errors of the network and of the database may pass."""
    with pytest.raises(TargetUnavailableError):
        translated(raising(error))


@pytest.mark.parametrize(
    "cause", [OverflowError("int too large"), UnicodeEncodeError("utf-8", "\udcff", 0, 1, "x")]
)
def test_a_value_that_the_store_cannot_hold_is_refused(cause: Exception) -> None:
    """A value that cannot be stored is refused, although MLflow calls it an internal error."""
    error = MlflowException("internal")
    error.__cause__ = cause
    for raised in (error, cause):
        with pytest.raises(RefusedError) as caught:
            translated(raising(raised))
        assert caught.value.code == "BAD_REQUEST"


def test_an_error_of_ours_is_not_hidden() -> None:
    """An error of the program itself is raised as it is."""
    with pytest.raises(ZeroDivisionError):
        translated(lambda: 1 // 0)


def test_messages_hold_no_password() -> None:
    """A message that contains a URI is shown without its password."""
    error = requests.ConnectionError("cannot reach http://me:secret@host/x")
    with pytest.raises(TargetUnavailableError) as caught:
        translated(raising(error))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "refused"),
    [(400, True), (401, True), (403, True), (404, True), (405, True), (413, True), (422, True),
     (408, False), (429, False), (500, False), (502, False), (503, False), (504, False)],
)  # fmt: skip
def test_answers_that_are_no_json(
    answers: requests_mock.Mocker, status: int, refused: bool
) -> None:
    """The HTTP status decides where an answer has no error code."""
    answers.post(LOG_BATCH, status_code=status, text="<html>a proxy</html>")
    client = Client(HOST, Backoff(0.0))
    with pytest.raises(RefusedError if refused else TargetUnavailableError):
        client.log_batch(RUN, metrics=[Metric("a", 1.0, 1, 0)])
    assert answers.call_count == 1


def test_a_batch_is_repeated_until_it_succeeds(answers: requests_mock.Mocker) -> None:
    """A batch is repeated after 500, 429, 503, garbage and a lost connection, until it succeeds."""
    answers.post(
        LOG_BATCH,
        [
            {"status_code": 500, "json": {"error_code": "INTERNAL_ERROR", "message": "x"}},
            {"status_code": 429, "headers": {"Retry-After": "7"}, "text": "slow down"},
            {"status_code": 429, "json": {"error_code": "RESOURCE_EXHAUSTED", "message": "x"}},
            {"status_code": 503, "text": "maintenance"},
            {"status_code": 200, "text": "<html>not json</html>"},
            {"exc": requests.ConnectionError("reset")},
            {"status_code": 200, "json": {}},
        ],
    )
    pauses: list[float] = []
    patient(pauses).log_batch(RUN, metrics=[Metric("a", 1.0, 1, 0)])
    assert len(pauses) == 6
    bodies = [json.loads(request.body) for request in answers.request_history]
    assert len(bodies) == 7
    assert all(body == bodies[0] for body in bodies)


def test_a_tracking_uri_that_cannot_be(fresh_store: str) -> None:
    """The error is one line without the password."""
    with pytest.raises(UsageError, match="cannot use the tracking URI nonsense://host") as caught:
        Client("nonsense://me:secret@host")
    assert "secret" not in str(caught.value)


def test_an_experiment_is_made_once(fresh_store: str) -> None:
    """An experiment is found again by name, and gets the tags that it lacks."""
    first = Experiments(Client(fresh_store)).find_or_create("e", {"a": "1"})
    assert Experiments(Client(fresh_store)).find_or_create("e", {"a": "2", "b": "3"}) == first
    tags = MlflowClient(fresh_store).get_experiment(first).tags
    assert (tags["a"], tags["b"]) == ("1", "3")


def test_an_experiment_that_somebody_else_just_made(fresh_store: str) -> None:
    """An experiment that another process creates in the meantime is used."""
    client = Client(fresh_store)
    other = MlflowClient(fresh_store).create_experiment("e")
    found = client.mlflow.get_experiment_by_name
    misses = iter([None])
    client.mlflow.get_experiment_by_name = lambda name: next(misses, found(name))  # type: ignore[method-assign]
    assert Experiments(client).find_or_create("e", {}) == other


def test_a_deleted_experiment_is_an_error_that_says_what_to_do(fresh_store: str) -> None:
    """A deleted experiment keeps its name, so nothing can be written under it."""
    made = Experiments(Client(fresh_store)).find_or_create("e", {})
    MlflowClient(fresh_store).delete_experiment(made)
    with pytest.raises(TargetError, match="is deleted: restore it"):
        Experiments(Client(fresh_store)).find_or_create("e", {})


def test_items_fit_into_batches() -> None:
    """A batch has at most 100 params and 100 tags, and the last one has the last tags."""
    pending = PendingItems()
    pending.add("r", [Param(f"p{n}", "") for n in range(250)], [RunTag("t", "old")])
    pending.add("r", [], [RunTag(f"t{n}", "") for n in range(120)])
    pending.add("r", [], [RunTag("t", "new")])
    batches = list(pending.batches())
    assert [(len(params), len(tags)) for _, params, tags in batches] == [
        (100, 0), (100, 0), (0, 100), (50, 21),
    ]  # fmt: skip
    last = batches[-1][2][-1]
    assert (last.key, last.value) == ("t", "new")
    assert list(PendingItems().batches()) == []


def test_a_server_whose_connections_to_its_database_are_all_in_use_is_waited_for() -> None:
    """MLflow calls it a bad request when its pool has no connection for 30 seconds; the items of
    the request are not at fault."""
    from mlflow.store.db.utils import _get_managed_session_maker

    engine = create_engine(
        "sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    session = _get_managed_session_maker(sessionmaker(engine), "sqlite")

    def ask() -> None:
        with session() as opened:
            opened.execute(text("SELECT 1"))

    with engine.connect():
        with pytest.raises(MlflowException) as answered:
            ask()
        assert answered.value.error_code == "BAD_REQUEST"
        with pytest.raises(TargetUnavailableError, match="QueuePool limit"):
            translated(ask)
    as_json = json.loads(answered.value.serialize_as_json())
    with pytest.raises(TargetUnavailableError, match="QueuePool limit"):
        translated(raising(RestException(as_json)))
    engine.dispose()
