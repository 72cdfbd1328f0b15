"""Points sent in raw requests are stored like those of MLflow's own client."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests_mock
from mlflow import MlflowClient
from mlflow.entities import Metric

from mlflow_wandb_plugin.core.model import Series
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetUnavailableError, UsageError
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.targets.mlflow.batches import Batches
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.files.losses import Losses
from mlflow_wandb_plugin.targets.mlflow.point_writer import PointWriter
from mlflow_wandb_plugin.targets.mlflow.rest import arrow_offer, rest_points
from mlflow_wandb_plugin.targets.mlflow.rest.rest_points import RestBulk, open_rest
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_features import loggable
from tests.support.processes import mlflow_server
from tests.targets.mlflow.writing import end, run_info

HOST = "http://mlflow.test:5000"
LOG_BATCH = f"{HOST}/api/2.0/mlflow/runs/log-batch"
ARROW = f"{LOG_BATCH}/arrow"
SPECIAL = [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1.7976931348623157e308, 1e-300]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[requests_mock.Mocker]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(rest_points, "_limiters", {})
    monkeypatch.setattr(arrow_offer, "_offers", {})
    with requests_mock.Mocker() as mocker:
        mocker.get(ARROW, status_code=404)
        yield mocker


def patient(pauses: list[float]) -> RestBulk:
    """A back-off that repeats at once and records how long it would have waited."""
    return open_rest(
        Client(HOST, Backoff(None, lambda seconds: (pauses.append(seconds), len(pauses) < 50)[1]))
    )


def column(count: int, name: str = "m") -> Points:
    steps = list(range(count))
    return Points(name, [step / 7 for step in steps], steps, steps)


def sent(answers: requests_mock.Mocker) -> list[list[dict[str, Any]]]:
    return [json.loads(request.body)["metrics"] for request in posted(answers)]


def posted(answers: requests_mock.Mocker) -> list[Any]:
    return [request for request in answers.request_history if request.method == "POST"]


@pytest.fixture(scope="module")
def fast_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that writes fast, and takes Arrow."""
    folder = tmp_path_factory.mktemp("fast-server")
    with mlflow_server(folder, uri=f"fast+sqlite:///{folder / 'server.db'}") as url:
        yield url


@pytest.mark.parametrize("kind", ["server", "fast_server"])
def test_points_are_those_of_mlflows_client(request: pytest.FixtureRequest, kind: str) -> None:
    """Special values, repeats and any order give equal histories and latest values; the requests
    are of Arrow where the server takes that."""
    server = request.getfixturevalue(kind)
    rng, client = random.Random(0), MlflowClient(server)
    target = Client(server)
    bulk, losses = open_rest(target), Losses()
    experiment = client.create_experiment("raw requests")
    one, other = (client.create_run(experiment).info.run_id for _ in range(2))
    names = ["a", "b/c", "é", 'quo"te'.replace('"', "-")]
    logged: set[tuple[object, ...]] = set()
    for _ in range(3):
        blocks = [
            Points(
                rng.choice(names),
                [rng.choice([*SPECIAL, rng.gauss(0, 1)]) for _ in range(count)],
                [rng.randrange(4) for _ in range(count)],
                [rng.randrange(-2, 4) for _ in range(count)],
            )
            for count in (rng.randrange(1, 9) for _ in range(4))
        ]
        points = [(b.name, *point) for b in blocks for point in zip(*b[1:], strict=True)]
        metrics = [Metric(*point) for point in points]
        client.log_batch(one, metrics=loggable(metrics, logged))
        writer = PointWriter(Batches(target, other, losses), bulk)
        for block in blocks:
            writer.append(block)
        writer.flush()
    for name in names:
        histories = [
            sorted(
                (m.step, m.timestamp, str(m.value)) for m in client.get_metric_history(run, name)
            )
            for run in (one, other)
        ]
        assert histories[0] == histories[1]
    assert not losses.counts
    assert arrow_offer.offer_of(server)._taken is (kind == "fast_server")
    latest = [
        {m.key: (m.step, m.timestamp, str(m.value)) for m in client.get_run(run).data._metric_objs}
        for run in (one, other)
    ]
    assert latest[0] == latest[1]


def test_the_latest_points_stay_right_with_requests_at_once(server: str) -> None:
    """The latest value is the one of the last step, with several requests at once."""
    client = MlflowClient(server)
    run_id = client.create_run(client.create_experiment("at once")).info.run_id
    open_rest(Client(server)).write(run_id, [column(2500, "a"), column(2500, "b")])
    assert client.get_run(run_id).data.metrics == {"a": 2499 / 7, "b": 2499 / 7}
    assert len(client.get_metric_history(run_id, "a")) == 2500


def test_requests_are_full_and_the_latest_goes_first(answers: requests_mock.Mocker) -> None:
    """A request has up to 1000 points of any metrics; the latest ones are at the start."""
    answers.post(LOG_BATCH, json={})
    patient([]).write("r", [column(1500, "a"), column(900, "b")])
    batches = sent(answers)
    assert sorted(map(len, batches)) == [400, 1000, 1000]
    assert [(m["key"], m["step"]) for m in batches[0][:2]] == [("a", 1499), ("b", 899)]
    everything = sorted((m["key"], m["step"]) for batch in batches for m in batch)
    assert everything == [("a", n) for n in range(1500)] + [("b", n) for n in range(900)]


def test_more_metrics_than_a_request_holds(answers: requests_mock.Mocker) -> None:
    """All latest points are sent before other requests begin."""
    answers.post(LOG_BATCH, json={})
    patient([]).write("r", [column(2, f"m{n}") for n in range(1500)])
    batches = sent(answers)
    first = [m["key"] for batch in batches[:2] for m in batch if m["step"] == 1]
    assert len(first) == 1500
    assert sum(map(len, batches)) == 3000


def test_several_requests_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests after the first one are sent at the same time."""
    meeting = threading.Barrier(3)
    bulk = patient([])
    bodies: list[bytes] = []

    def request(body: bytes) -> None:
        bodies.append(body)
        if len(bodies) > 1:
            meeting.wait(20)

    monkeypatch.setattr(bulk, "_request", request)
    bulk.write("r", [column(4000)])
    assert len(bodies) == 4
    assert not meeting.broken


def test_a_server_that_asks_to_wait(answers: requests_mock.Mocker) -> None:
    """After 429 or 503 there are fewer requests at once, after the time that the server names."""
    answers.post(
        LOG_BATCH,
        [
            {"status_code": 429, "headers": {"Retry-After": "0.2"}, "text": "slow down"},
            {"status_code": 503, "text": "maintenance"},
            {"json": {}},
        ],
    )
    pauses: list[float] = []
    bulk = patient(pauses)
    bulk.write("r", [column(10)])
    assert len(posted(answers)) == 3
    assert pauses[0] >= 0.2
    assert bulk._limiter.limit < 4


def test_patience_ends(answers: requests_mock.Mocker) -> None:
    """A server that is down is an unavailable target."""
    answers.post(LOG_BATCH, status_code=429, headers={"Retry-After": "999999"}, text="no")
    with pytest.raises(TargetUnavailableError, match="asks to wait"):
        open_rest(Client(HOST, Backoff(0.0))).write("r", [column(1)])


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_final(answers: requests_mock.Mocker, status: int) -> None:
    """A refusal has MLflow's error code."""
    answers.post(
        LOG_BATCH,
        status_code=status,
        json={"error_code": "INVALID_PARAMETER_VALUE", "message": "no"},
    )
    with pytest.raises(RefusedError, match="no") as caught:
        patient([]).write("r", [column(3)])
    assert caught.value.code == "INVALID_PARAMETER_VALUE"


def test_credentials_are_mlflows(
    answers: requests_mock.Mocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request, and the question for Arrow, has the credentials that MLflow takes from the
    environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    answers.post(LOG_BATCH, json={})
    patient([]).write("r", [column(1)])
    question, request = answers.request_history
    for one in (question, request):
        assert one.headers["Authorization"] == "Bearer secret"
        assert "mlflow" in one.headers["User-Agent"]


def test_only_a_server_has_this_path(fresh_store: str) -> None:
    """A database is an error."""
    with pytest.raises(UsageError):
        open_rest(Client(fresh_store))


def test_a_point_that_the_server_refuses_is_counted(server: str) -> None:
    """Only the refused points are left out."""
    info = run_info(run_id="rest1", project="refused by server")
    target = MlflowTarget(server)
    assert isinstance(target._bulk, RestBulk)
    writer = target.open(info, "backfill")
    writer.append(Series(("m",), [0, 1, 2], [5, -1, 7], [1.0, 2.0, 3.0]))
    writer._points._writer.append(Points("not [a] name", (1.0,), (5,), (0,)))
    end(writer, info)
    writer.close()
    assert writer.losses == {"metric_refused": 2}
    history = MlflowClient(server).get_metric_history(writer.run_id, "m")
    assert sorted((m.step, m.value) for m in history) == [(0, 1.0), (2, 3.0)]


@pytest.mark.usefixtures("answers")
def test_all_targets_on_a_server_share_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers of five runs have four requests under way together, not each of them."""
    sent = under_way = most = 0
    four, five = threading.Event(), threading.Event()
    counting = threading.Lock()

    def request(bulk: RestBulk, body: bytes) -> None:
        nonlocal sent, under_way, most
        with counting:
            sent += 1
            under_way += 1
            most = max(most, under_way)
            (four if under_way == 4 else five if under_way > 4 else threading.Event()).set()
        four.wait(60)
        # A fifth one, if it may be sent, comes meanwhile.
        five.wait(0.2)
        with counting:
            under_way -= 1

    # requests_mock answers one request at a time.
    monkeypatch.setattr(RestBulk, "_request", request)
    writers = [
        threading.Thread(target=open_rest(Client(HOST)).write, args=(f"run{n}", [column(1)]))
        for n in range(5)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert (sent, most) == (5, 4)
