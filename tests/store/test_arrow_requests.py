"""Points sent as Arrow are authorised, checked and written as those of log-batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_wandb_plugin.mlflow_access import arrow_points
from mlflow_wandb_plugin.mlflow_access.arrow_points import CONTENT_TYPE, encode
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.store.arrow_requests import take_arrow_points
from mlflow_wandb_plugin.store.fast_writes import write_fast
from mlflow_wandb_plugin.store.server_requests import VIEW
from tests.support.stores import copy_store

LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
PATH = f"{LOG_BATCH}/arrow"
GOOD = encode([Points("a", [1.0, 2.0, 3.0], [1, 2, 3], [1, 2, 3]), Points("b", [4.0], [4], [-4])])


class Server:
    """The Flask app of MLflow's server, in this process.

    Attributes:
        store: its store; the tests may replace it.
    """

    def __init__(self, store: Any, client: FlaskClient) -> None:
        self.store = store
        self._client = client

    def post(self, body: bytes, run_id: str, **environ: Any) -> Any:
        """Send points; ``environ`` replaces fields of the WSGI request."""
        environ = {"CONTENT_TYPE": CONTENT_TYPE, "CONTENT_LENGTH": str(len(body))} | environ
        asked = {"query_string": {"run_id": run_id}, "environ_overrides": environ}
        return self._client.open(PATH, method="POST", data=body, **asked)

    def log_batch(self, run_id: str, **fields: Any) -> Any:
        return self._client.post(LOG_BATCH, json={"run_id": run_id} | fields)

    def get(self, run_id: str = "0" * 32) -> Any:
        return self._client.get(PATH, query_string={"run_id": run_id})

    def new_run(self) -> str:
        return str(self.store.create_run("0", "user", 1, [], "run").info.run_id)

    def count(self, run_id: str) -> int:
        """How many points a run has."""
        with self.store.engine.connect() as connection:
            query = f"SELECT count(*) FROM metrics WHERE run_uuid = '{run_id}'"
            return int(connection.exec_driver_sql(query).scalar())


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from mlflow.server import app, handlers

    folder = tmp_path_factory.mktemp("arrow")
    store = write_fast(SqlAlchemyStore(copy_store(empty_store, folder / "m.db"), str(folder)))
    with pytest.MonkeyPatch.context() as patch:
        # So that they are put back.
        patch.setattr(app, "wsgi_app", app.wsgi_app)
        patch.setitem(app.view_functions, VIEW, app.view_functions[VIEW])
        take_arrow_points(app)
        found = Server(store, app.test_client())
        patch.setattr(handlers, "_get_tracking_store", lambda: found.store)
        yield found
    store.engine.dispose()


def test_a_server_says_that_it_takes_points(server: Server) -> None:
    """The question has the format and its version as an answer; for any run."""
    answer = server.get()
    assert (answer.status_code, answer.get_json()) == (200, arrow_points.FORMAT)


def test_points_are_written(server: Server) -> None:
    """All of them, and the answer says how many; sent again they change nothing."""
    run_id = server.new_run()
    for _ in range(2):
        answer = server.post(GOOD, run_id)
        assert (answer.status_code, answer.get_json()) == (200, {"points": 4})
    assert server.count(run_id) == 4
    assert server.store.get_run(run_id).data.metrics == {"a": 3.0, "b": 4.0}


@pytest.mark.parametrize(
    ("state", "points"),
    [
        ("absent", Points("a", [1.0], [1], [1])),
        ("absent", Points("a..b/../c", [1.0], [1], [1])),
        ("deleted", Points("a", [1.0], [1], [1])),
        ("active", Points("a", [1.0], [-1], [1])),
        ("active", Points("k" * 251, [1.0], [1], [1])),
        ("active", Points("a//b", [1.0], [1], [1])),
        ("active", Points("a\nb", [1.0], [1], [1])),
        ("no id", Points("a", [1.0], [1], [1])),
    ],
    ids=str,
)
def test_errors_are_those_of_log_batch(server: Server, state: str, points: Points) -> None:
    """Status, code and message; nothing is written, also of the points that are valid."""
    run_id = {"absent": "0" * 32, "no id": ""}.get(state, server.new_run())
    if state == "deleted":
        server.store.delete_run(run_id)
    metrics = [
        {"key": name, "value": block[1][at], "timestamp": block[2][at], "step": block[3][at]}
        for block in (Points("first", [1.0, 2.0], [1, 2], [1, 2]), points)
        for name, at in ((block.name, at) for at in range(len(block.values)))
    ]
    found = server.post(encode([Points("first", [1.0, 2.0], [1, 2], [1, 2]), points]), run_id)
    expected = server.log_batch(run_id, metrics=metrics)
    assert found.status_code == expected.status_code >= 400
    if run_id:
        assert found.get_json() == expected.get_json()
    assert server.count(run_id) == 0


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"CONTENT_TYPE": "application/json"}, 415),
        ({"CONTENT_TYPE": ""}, 415),
        ({"CONTENT_LENGTH": "0"}, 400),
        ({"CONTENT_LENGTH": str(len(GOOD) - 1)}, 400),
        ({"CONTENT_LENGTH": str(len(GOOD) + 1)}, 400),
        ({"CONTENT_LENGTH": str(arrow_points.MOST_BYTES)}, 400),
        ({"CONTENT_LENGTH": str(arrow_points.MOST_BYTES + 1), "wsgi.input": None}, 413),
        ({"CONTENT_LENGTH": "9" * 30, "wsgi.input": None}, 413),
        ({"CONTENT_LENGTH": "-1"}, 411),
        ({"CONTENT_LENGTH": "+1"}, 411),
        ({"CONTENT_LENGTH": ""}, 411),
        ({"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"REQUEST_METHOD": "PUT"}, 404),
        ({"REQUEST_METHOD": "DELETE"}, 404),
    ],
)
def test_other_requests_are_refused(server: Server, environ: dict[str, Any], status: int) -> None:
    """Another content, no length or a wrong one (one that is too large is not read), other methods:
    nothing is written."""
    run_id = server.new_run()
    answer = server.post(GOOD, run_id, **environ)
    assert answer.status_code == status, answer.get_data()
    assert server.count(run_id) == 0


def test_only_a_store_that_writes_fast_takes_points(
    server: Server, monkeypatch: pytest.MonkeyPatch, empty_store: Path, tmp_path: Path
) -> None:
    """MLflow's own methods write to others: the question and the points are not found."""
    plain = SqlAlchemyStore(copy_store(empty_store, tmp_path / "m.db"), str(tmp_path))
    monkeypatch.setattr(server, "store", plain)
    run_id = server.new_run()
    assert [server.get(run_id).status_code, server.post(GOOD, run_id).status_code] == [404, 404]
    plain.engine.dispose()


def test_a_server_of_artifacts_alone_takes_no_points(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As log-batch: 503."""
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACTS_ONLY", "true")
    assert server.get().status_code == 503
    assert server.post(GOOD, "0" * 32).status_code == server.log_batch("0" * 32).status_code == 503


@given(st.data())
def test_damaged_bodies_write_all_or_nothing(server: Server, data: Any) -> None:
    """Whatever is cut off or changed, a body is refused with 400, or written as a whole."""
    body = bytearray(GOOD)
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4)
    ):
        body[at] = byte
    end = data.draw(st.sampled_from([len(GOOD), data.draw(st.integers(0, len(GOOD)))]))
    run_id = server.new_run()
    answer = server.post(bytes(body[:end]), run_id)
    assert answer.status_code in (200, 400), answer.get_data()
    # Two points may have become one.
    assert (0 < server.count(run_id) <= 4) is (answer.status_code == 200)


def test_nothing_but_log_batch_itself_is_asked_before_the_view(server: Server) -> None:
    """Hooks of the app, such as those that authorise, see a request of log-batch to the run, with
    the headers of this one."""
    from flask import request
    from mlflow.server import app

    seen = []

    def hook() -> Any:
        seen.append((request.path, request.method, request.get_json(), dict(request.args)))
        seen.append((request.headers["Authorization"], request.content_length))
        return "refused", 403

    before = app.before_request_funcs.setdefault(None, [])
    before.append(hook)
    try:
        run_id = server.new_run()
        answer = server.post(GOOD, run_id, HTTP_AUTHORIZATION="Basic x")
    finally:
        before.remove(hook)
    body = {"run_id": run_id}
    assert seen == [(LOG_BATCH, "POST", body, {}), ("Basic x", len(json.dumps(body)))]
    assert (answer.status_code, server.count(run_id)) == (403, 0)
