"""Real servers take points as Arrow: however they serve, from those who may log, and for good."""

from __future__ import annotations

import http.client
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from mlflow import MlflowClient

from mlflow_wandb_plugin.mlflow_access.arrow_points import CONTENT_TYPE, FORMAT, encode
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.store import uris
from tests.support.environment import isolated
from tests.support.mlflow_features import IS_3_1
from tests.support.processes import (
    end_all_of,
    free_port,
    mlflow_server,
    started,
    wait_until,
)

LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
PATH = f"{LOG_BATCH}/arrow"
BODY = encode([Points("a", [1.0, 2.0], [1, 2], [1, 2])])
PASSWORD = "of every user here"
pytestmark = pytest.mark.slow


def post(url: str, run_id: str, body: bytes = BODY, **more: Any) -> requests.Response:
    headers = {"Content-Type": CONTENT_TYPE} | more.pop("headers", {})
    asked = {"params": {"run_id": run_id}, "data": body, "headers": headers, "timeout": 120}
    return requests.post(f"{url}{PATH}", **asked, **more)


def log_batch(url: str, run_id: str, **more: Any) -> requests.Response:
    metrics = [{"key": "b", "value": 1.0, "timestamp": 1}]
    body = {"run_id": run_id, "metrics": metrics}
    return requests.post(f"{url}{LOG_BATCH}", json=body, timeout=120, **more)


def ask(url: str) -> requests.Response:
    # Each question has a connection of its own, and may meet another worker.
    return requests.get(f"{url}{PATH}", params={"run_id": "0" * 32}, timeout=120)


# MLflow 3.1 has gunicorn alone, and no prefix for the API.
PREFIX = "" if IS_3_1 else "/at/home"
GUNICORN = () if IS_3_1 else ("--gunicorn-opts", "--log-level info")


@pytest.mark.parametrize(
    ("workers", "options", "prefix"),
    [(4, (), ""), (1, GUNICORN, PREFIX)],
    ids=["default", "gunicorn under a prefix"],
)
def test_every_worker_takes_points(
    tmp_path: Path, workers: int, options: tuple[str, ...], prefix: str
) -> None:
    """From its first request on, and the points are there; requests of log-batch are read as
    before."""
    uri = f"fast+sqlite:///{tmp_path / 'server.db'}"
    given = {"workers": workers, "uri": uri, "options": options, "prefix": prefix}
    with mlflow_server(tmp_path / "server", **given) as url:
        answers = [ask(url) for _ in range(3 * workers)]
        assert [answer.json() for answer in answers] == [FORMAT] * len(answers)
        client = MlflowClient(url)
        run_id = client.create_run("0").info.run_id
        assert post(url, run_id).json() == {"points": 2}
        assert log_batch(url, run_id).json() == {}
        assert client.get_run(run_id).data.metrics == {"a": 2.0, "b": 1.0}


def test_a_plain_server_takes_none(server: str) -> None:
    """MLflow's own answer to a path that it does not have."""
    assert ask(server).status_code == post(server, "0" * 32).status_code == 404


APP = """
import json, os, socket, stat
import mlflow.server

def delayed():
    for fd in map(int, os.listdir("/dev/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as each:
                    if each.getsockname()[:1] == ("127.0.0.1",) and each.getpeername():
                        yield not each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        except OSError:
            pass

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": json.dumps(list(delayed())).encode()})
"""


@pytest.mark.skipif(IS_3_1, reason="MLflow 3.1 has no uvicorn")
def test_workers_do_not_wait_for_the_client_to_acknowledge_half_an_answer(tmp_path: Path) -> None:
    """uvicorn's workers, unlike MLflow's one process or gunicorn's, leave Nagle's algorithm on."""
    (tmp_path / "told.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "told:app", "--workers", "2", "--port", str(port)]
    env = isolated(tmp_path / "env")
    env[uris.SERVER_STORE] = f"fast+sqlite:///{tmp_path / 'server.db'}"
    url = f"http://127.0.0.1:{port}"
    with started(command, env, tmp_path), requests.Session() as kept:
        wait_until(lambda: answers(url), what="uvicorn")
        assert [kept.get(url, timeout=120).json() for _ in range(3)] == [[False]] * 3


def answers(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(url, timeout=120).ok
    return False


@pytest.mark.skipif(IS_3_1, reason="MLflow 3.1 checks neither hosts nor origins")
def test_hosts_and_origins_are_checked(tmp_path: Path) -> None:
    """As for log-batch: other hosts and origins are refused."""
    uri = f"fast+sqlite:///{tmp_path / 'server.db'}"
    with mlflow_server(tmp_path / "server", uri=uri) as url:
        run_id = MlflowClient(url).create_run("0").info.run_id
        for headers in ({"Host": "elsewhere.test"}, {"Origin": "https://elsewhere.test"}):
            refused = post(url, run_id, headers=headers), log_batch(url, run_id, headers=headers)
            assert [answer.status_code for answer in refused] == [403, 403]
            assert refused[0].text == refused[1].text
        assert MlflowClient(url).get_run(run_id).data.metrics == {}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server with MLflow's basic-auth app."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = folder / "auth.ini"
    settings.write_text(
        f"""[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{folder / "auth.db"}
admin_username = admin
admin_password = {PASSWORD}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret",
    }
    uri = f"fast+sqlite:///{folder / 'server.db'}"
    options = ("--app-name", "basic-auth")
    with mlflow_server(folder / "server", uri=uri, options=options, **variables) as url:
        yield url


def as_user(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def add_user(url: str, name: str) -> None:
    body = {"username": name, "password": PASSWORD}
    as_admin(f"{url}/api/2.0/mlflow/users/create", body)


def permit(url: str, name: str, experiment: str, permission: str) -> None:
    body = {"username": name, "permission": permission}
    if IS_3_1:
        path, of = "/api/2.0/mlflow/experiments/permissions/create", {"experiment_id": experiment}
    else:
        path = "/api/3.0/mlflow/users/permissions/grant"
        of = {"resource_type": "experiment", "resource_id": experiment}
    as_admin(f"{url}{path}", body | of)


def as_admin(url: str, body: dict[str, str]) -> None:
    answer = requests.post(url, json=body, auth=("admin", PASSWORD), timeout=120)
    assert answer.status_code == 200, answer.text


def test_who_may_log_a_batch_may_send_points(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is that of log-batch, for every user and run; what is refused is not written. The
    question is answered to those who may log to the run."""
    as_user(monkeypatch, "admin")
    client = MlflowClient(guarded)
    experiment = client.create_experiment("theirs")
    for name in ("reader", "editor", "stranger"):
        add_user(guarded, name)
    for name, permission in (("reader", "READ"), ("editor", "EDIT")):
        permit(guarded, name, experiment, permission)
    expected = {"admin": 200, "editor": 200, "reader": 403, "stranger": 403}
    for name, status in expected.items():
        login = (name, PASSWORD)
        run_id = client.create_run(experiment).info.run_id
        question = requests.get(
            f"{guarded}{PATH}", params={"run_id": run_id}, auth=login, timeout=120
        )
        found = [answer(guarded, run_id, auth=login).status_code for answer in (post, log_batch)]
        assert [*found, question.status_code] == [status] * 3, name
        assert (client.get_run(run_id).data.metrics != {}) is (status == 200)
    run_id = client.create_run(experiment).info.run_id
    for login in (None, ("editor", "wrong"), ("nobody", PASSWORD)):
        answers = [answer(guarded, run_id, auth=login) for answer in (post, log_batch)]
        assert [answer.status_code for answer in answers] == [401, 401]
        assert "Basic" in answers[0].headers["WWW-Authenticate"]
    assert client.get_run(run_id).data.metrics == {}


def test_absent_and_deleted_runs_are_told_as_log_batch_tells_them(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to those who may not know."""
    as_user(monkeypatch, "admin")
    client = MlflowClient(guarded)
    add_user(guarded, "curious")
    deleted = client.create_run("0").info.run_id
    client.delete_run(deleted)
    for name, run_id in product(("admin", "curious"), (deleted, "0" * 32, "../x", "")):
        login = (name, PASSWORD)
        found, wanted = (answer(guarded, run_id, auth=login) for answer in (post, log_batch))
        assert found.status_code == wanted.status_code >= 400, (name, run_id)
        if run_id:
            assert found.text == wanted.text


# -- nothing half-written, nothing acknowledged lost ---------------------------------------------


def points_of(database: Path, run_id: str) -> dict[str, int]:
    """How many points each metric of a run has."""
    query = "SELECT key, count(*) FROM metrics WHERE run_uuid = ? GROUP BY key"
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute(query, (run_id,)).fetchall())


def test_a_client_that_is_gone_has_written_nothing(tmp_path: Path) -> None:
    """A connection that ends within the body; the server goes on."""
    database = tmp_path / "server.db"
    with mlflow_server(tmp_path / "server", uri=f"fast+sqlite:///{database}") as url:
        run_id = MlflowClient(url).create_run("0").info.run_id
        address = urlsplit(url).netloc
        for sent in (0, 1, len(BODY) // 2, len(BODY) - 1):
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.putrequest("POST", f"{PATH}?run_id={run_id}")
            connection.putheader("Content-Type", CONTENT_TYPE)
            connection.putheader("Content-Length", str(len(BODY)))
            connection.endheaders()
            connection.send(BODY[:sent])
            connection.close()
        assert points_of(database, run_id) == {}
        assert post(url, run_id).status_code == 200
        assert points_of(database, run_id) == {"a": 2}


def test_a_server_that_is_killed_has_what_it_acknowledged(tmp_path: Path) -> None:
    """Requests at once when it is killed: all points of a request are there, or none, and all of
    those that were acknowledged; they are sent again, and are there once."""
    count, database = 5000, tmp_path / "server.db"
    numbers = list(range(count))
    bodies = {
        f"m{n}": encode([Points(f"m{n}", [x / 7 for x in numbers], numbers, numbers)])
        for n in range(40)
    }
    acknowledged: set[str] = set()
    some = threading.Semaphore(0)

    def send(url: str, run_id: str, name: str) -> None:
        try:
            answer = post(url, run_id, bodies[name])
        except requests.RequestException:
            return
        assert answer.status_code == 200
        acknowledged.add(name)
        some.release()

    with mlflow_server(tmp_path / "one", uri=f"fast+sqlite:///{database}") as url:
        run_id = MlflowClient(url).create_run("0").info.run_id
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(send, url, run_id, name) for name in bodies]
            for _ in range(6):
                some.acquire(timeout=120)
            end_all_of(tmp_path / "one")
            for future in futures:
                future.result()
    there = points_of(database, run_id)
    assert 6 <= len(acknowledged) < len(bodies)
    assert set(there.values()) == {count}
    assert acknowledged <= set(there)
    with mlflow_server(tmp_path / "two", uri=f"fast+sqlite:///{database}") as url:
        for body in bodies.values():
            assert post(url, run_id, body).status_code == 200
    assert points_of(database, run_id) == dict.fromkeys(bodies, count)
