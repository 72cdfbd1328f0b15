"""Points are sent as Arrow to a server that says it takes them, and by log-batch to all others."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import requests_mock

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.mlflow_access import arrow_points
from mlflow_wandb_plugin.mlflow_access.arrow_points import FORMAT, decode
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.rest import arrow_offer, rest_points
from mlflow_wandb_plugin.targets.mlflow.rest.rest_points import RestBulk, open_rest
from tests.support.processes import run_script

HOST = "http://mlflow.test:5000"
LOG_BATCH = f"{HOST}/api/2.0/mlflow/runs/log-batch"
ARROW = f"{LOG_BATCH}/arrow"
REFUSAL = {"error_code": "BAD_REQUEST", "message": "no"}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[requests_mock.Mocker]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(rest_points, "_limiters", {})
    monkeypatch.setattr(arrow_offer, "_offers", {})
    with requests_mock.Mocker() as mocker:
        mocker.post(LOG_BATCH, json={})
        yield mocker


def opened() -> RestBulk:
    return open_rest(Client(HOST, Backoff(None, lambda seconds: True)))


def column(count: int, name: str = "m") -> Points:
    steps = list(range(count))
    return Points(name, [step / 7 for step in steps], steps, steps)


def points_of(request: Any) -> set[tuple[str, int]]:
    """The metrics and steps of the points that a request brings."""
    if request.path.endswith("/arrow"):
        return {(block.name, step) for block in decode(request.body) for step in block.steps}
    return {(m["key"], m["step"]) for m in json.loads(request.body)["metrics"]}


def receipt(request: Any, context: Any) -> Any:
    """What a server answers that has taken all points."""
    return {"points": len(points_of(request))}


def asked(answers: requests_mock.Mocker) -> list[str]:
    """Methods and last parts of the paths of all requests."""
    return [f"{each.method} {each.path.rsplit('/')[-1]}" for each in answers.request_history]


def test_points_are_sent_as_arrow(
    answers: requests_mock.Mocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All points once, in requests of so many points; the server is asked once, about the run."""
    monkeypatch.setattr(arrow_points, "POINTS_SENT", 1000)
    answers.get(ARROW, json=FORMAT)
    answers.post(ARROW, json=receipt)
    opened().write("r&1", [column(2500, "a"), column(10, "b")])
    opened().write("r2", [column(10, "b")])
    question, *posts = answers.request_history
    assert sorted(asked(answers)) == ["GET arrow"] + 4 * ["POST arrow"]
    assert (question.qs, posts[0].qs, posts[-1].qs) == (
        {"run_id": ["r&1"]}, {"run_id": ["r&1"]}, {"run_id": ["r2"]},
    )  # fmt: skip
    assert sorted(len(points_of(post)) for post in posts) == [10, 510, 1000, 1000]
    assert set().union(*map(points_of, posts)) == points_of_blocks(
        column(2500, "a"), column(10, "b")
    )


def points_of_blocks(*blocks: Points) -> set[tuple[str, int]]:
    return {(block.name, step) for block in blocks for step in block.steps}


@pytest.mark.parametrize(
    "answer",
    [
        {"status_code": 404, "text": "<!doctype html>"},
        {"status_code": 404, "json": {"error_code": "ENDPOINT_NOT_FOUND"}},
        {"status_code": 405},
        {"status_code": 401},
        {"status_code": 403, "json": {"error_code": "PERMISSION_DENIED"}},
        {"status_code": 200, "text": "<html>anything</html>"},
        {"status_code": 200, "json": {**FORMAT, "version": 2}},
        {"status_code": 200, "json": []},
        {"status_code": 200, "json": FORMAT | {"more": 1}},
    ],
)
def test_other_servers_are_sent_log_batches(
    answers: requests_mock.Mocker, answer: dict[str, Any]
) -> None:
    """Any other answer that is final or has content: the server is asked once, or once a write."""
    answers.get(ARROW, **answer)
    opened().write("r", [column(10)])
    assert asked(answers) == ["GET arrow", "POST log-batch"]
    assert points_of(answers.request_history[1]) == points_of_blocks(column(10))


@pytest.mark.parametrize(
    "answer",
    [{"status_code": 503}, {"status_code": 429}, {"status_code": 500},
     {"exc": requests.ConnectionError}, {"exc": requests.ReadTimeout}],
)  # fmt: skip
def test_a_server_in_trouble_is_asked_again(
    answers: requests_mock.Mocker, answer: dict[str, Any]
) -> None:
    """Points go by log-batch meanwhile; the next write asks again."""
    answers.get(ARROW, [answer, {"json": FORMAT}])
    answers.post(ARROW, json=receipt)
    bulk = opened()
    bulk.write("r", [column(10)])
    bulk.write("r", [column(10)])
    assert asked(answers) == ["GET arrow", "POST log-batch", "GET arrow", "POST arrow"]


@pytest.mark.parametrize(
    "refusal",
    [
        {"status_code": 404, "text": "<!doctype html>"},
        {"status_code": 405},
        {"status_code": 411, "json": REFUSAL},
        {"status_code": 413, "text": "nginx"},
        {"status_code": 415, "json": REFUSAL},
        {"status_code": 200, "json": {}},
        {"status_code": 200, "json": FORMAT},
        {"status_code": 200, "text": "<html>anything</html>"},
        {"status_code": 200, "json": {"points": 499}},
    ],
)
def test_a_server_that_takes_them_no_longer(
    answers: requests_mock.Mocker, monkeypatch: pytest.MonkeyPatch, refusal: dict[str, Any]
) -> None:
    """Started again without this package, or behind a proxy that refuses them, answers anything or
    turns a POST into a GET: all points of the write go by log-batch, each metric's latest first,
    and so does all that follows."""
    monkeypatch.setattr(arrow_points, "POINTS_SENT", 500)
    answers.get(ARROW, json=FORMAT)
    answers.post(ARROW, [{"json": receipt}, refusal])
    bulk = opened()
    bulk.write("r", [column(2500)])
    batches = [each for each in answers.request_history if each.path.endswith("log-batch")]
    assert set().union(*map(points_of, batches)) == points_of_blocks(column(2500))
    assert json.loads(batches[0].body)["metrics"][0]["step"] == 2499
    before = len(answers.request_history)
    bulk.write("r", [column(10)])
    assert asked(answers)[before:] == ["POST log-batch"]


def test_a_refusal_of_mlflows_is_final(answers: requests_mock.Mocker) -> None:
    """The error of a run that is not there, or of a bad point, has MLflow's code, as by
    log-batch."""
    answers.get(ARROW, json=FORMAT)
    bulk = opened()
    for status, code in ((404, "RESOURCE_DOES_NOT_EXIST"), (400, "INVALID_PARAMETER_VALUE")):
        answers.post(ARROW, status_code=status, json={"error_code": code, "message": "no"})
        with pytest.raises(RefusedError, match="no") as caught:
            bulk.write("r", [column(10)])
        assert caught.value.code == code
    assert asked(answers) == ["GET arrow", "POST arrow", "POST arrow"]


def test_requests_are_repeated_as_those_of_log_batch(answers: requests_mock.Mocker) -> None:
    """A lost answer and a server that asks to wait: the same points are sent again."""
    answers.get(ARROW, json=FORMAT)
    answers.post(
        ARROW,
        [{"exc": requests.ConnectionError}, {"status_code": 503, "text": ""}, {"json": receipt}],
    )
    opened().write("r", [column(10)])
    posts = [each for each in answers.request_history if each.method == "POST"]
    assert asked(answers) == ["GET arrow"] + 3 * ["POST arrow"]
    assert [post.body for post in posts] == 3 * [posts[0].body]


def test_a_name_without_utf8_is_refused(answers: requests_mock.Mocker) -> None:
    """As MLflow's client does; the caller then finds the bad item among the others."""
    answers.get(ARROW, json=FORMAT)
    with pytest.raises(RefusedError) as caught:
        opened().write("r", [Points("\ud800", [math.nan], [1], [1])])
    assert caught.value.code == "BAD_REQUEST"


def test_a_process_with_a_part_of_mlflow_does_not_ask(env: dict[str, str], tmp_path: Path) -> None:
    """A replicator: it sends few points at once."""
    code = (
        "from mlflow_wandb_plugin.core.partial_import import allow_partial_import\n"
        "allow_partial_import()\n"
        "from mlflow_wandb_plugin.targets.mlflow.client import Client\n"
        "from mlflow_wandb_plugin.targets.mlflow.rest.rest_points import open_rest\n"
        "assert open_rest(Client('http://mlflow.test'))._offer is None\n"
    )
    run_script(code, env, tmp_path)


def test_nobody_asks_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with mlflow-skinny may lack it."""
    monkeypatch.setattr(arrow_offer, "_offers", {})
    assert arrow_offer.offer_of(HOST) is not None
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert arrow_offer.offer_of(HOST) is None
