"""Requests of log_batch that are read without protobuf are what MLflow's handler makes of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from mlflow_wandb_plugin.store import server_requests
from mlflow_wandb_plugin.store.server_requests import NotPlainError, plain_request
from tests.support.processes import mlflow_server

ODD = st.sampled_from(
    [None, "", "x", "1", "NaN", "-Infinity", "\ud800", 1, 1.5, 2**63, 10**400, True, [], {}]
)
KEYS = st.sampled_from(["a", "b/c", "ä"])
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1)
)


def with_oddities(fields: dict[str, Any]) -> Any:
    """Objects with these fields; some lack one, have an odd value or one field more."""
    plain = st.fixed_dictionaries(fields)
    changed = st.tuples(plain, st.sampled_from([*fields, "more", "model_id"]), ODD).map(
        lambda given: {**given[0], given[1]: given[2]}
    )
    lacking = st.tuples(plain, st.sampled_from(list(fields))).map(
        lambda given: {key: value for key, value in given[0].items() if key != given[1]}
    )
    return st.one_of(plain, plain, plain, changed, lacking)


METRICS = st.lists(
    with_oddities(
        {
            "key": KEYS,
            "value": st.one_of(NUMBERS, st.sampled_from(["NaN", "Infinity", "-Infinity"])),
            "timestamp": st.integers(-1, 2**63 - 1),
            "step": st.integers(-(2**63), 2**63 - 1),
        }
    ),
    max_size=3,
)
PAIRS = st.lists(with_oddities({"key": KEYS, "value": st.sampled_from(["", "1", "ü"])}), max_size=2)
BODIES = with_oddities(
    {"run_id": st.just("f" * 32), "metrics": METRICS, "params": PAIRS, "tags": PAIRS}
)


class Recorder:
    """In place of the server's store: what log_batch was called with; some calls are refused."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        fields = [
            [("nan" if value != value else (type(value), value)) for value in vars(each).values()]
            for each in (*metrics, *params, *tags)
        ]
        self.calls.append((run_id, len(metrics), len(params), fields))
        if params:
            raise MlflowException("refused")


@pytest.fixture(scope="module")
def views() -> tuple[Any, Any, Any]:
    """MLflow's view of log_batch, ours, and the app."""
    from mlflow.server import app

    original = app.view_functions[server_requests.VIEW]
    return original, server_requests._view(original), app


@given(BODIES)
@settings(max_examples=150)
def test_the_store_gets_what_mlflow_gives_it(views: tuple[Any, Any, Any], body: Any) -> None:
    """The same arguments, statuses and answers, for valid and invalid bodies."""
    from mlflow.server import handlers

    original, ours, app = views
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for view in (original, ours):
            store = Recorder()
            patch.setattr(handlers, "_get_tracking_store", lambda store=store: store)
            with app.test_request_context(
                "/api/2.0/mlflow/runs/log-batch",
                method="POST",
                data=json.dumps(body),
                content_type="application/json",
            ):
                try:
                    answer = view()
                except Exception as error:
                    found.append((type(error), store.calls))
                else:
                    found.append((answer.status_code, answer.get_data(), store.calls))
    assert found[1] == found[0]


def test_plain_requests_are_read_here() -> None:
    """A request as MLflow's client sends it, with numbers that JSON spells out."""
    body = {
        "run_id": "r",
        "metrics": [
            {"key": "a", "value": 1, "timestamp": 2, "step": 3},
            {"key": "b", "value": "-Infinity", "timestamp": 2},
        ],
        "params": [{"key": "p", "value": ""}],
        "tags": [{"key": "t", "value": "1"}],
    }
    found = plain_request(body)
    assert found.run_id == "r"
    assert found.metrics == [Metric("a", 1.0, 2, 3), Metric("b", -math.inf, 2, 0)]
    assert [(each.key, each.value) for each in (*found.params, *found.tags)] == [
        ("p", ""),
        ("t", "1"),
    ]


@pytest.mark.parametrize(
    "body", [None, [], "{}", {"run_id": "r", "run_uuid": "s"}, {"metrics": []}]
)
def test_other_requests_are_mlflows(body: Any) -> None:
    """Bodies that are no object, with other fields or without a run."""
    with pytest.raises(NotPlainError):
        plain_request(body)


@pytest.mark.slow
def test_a_server_writes_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow server --backend-store-uri fast+…`: a client's values arrive, its errors are
    MLflow's, and the URI has no prefix in the server's log."""
    uri = f"fast+sqlite:///{tmp_path / 'server.db'}"
    with mlflow_server(tmp_path / "server", uri=uri) as url:
        client = MlflowClient(url)
        run_id = client.create_run("0").info.run_id
        client.log_batch(run_id, [Metric("a", n / 7, n, n) for n in range(1000)])
        client.log_metric(run_id, "b", float("nan"))
        client.log_param(run_id, "p", 1)
        client.set_tag(run_id, "t", "x")
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            client.log_param(run_id, "p", 2)
        with pytest.raises(MlflowException, match="not found"):
            client.log_metric("0" * 32, "a", 1.0)
        data = client.get_run(run_id).data
        assert (data.metrics["a"], data.params, data.tags["t"]) == (999 / 7, {"p": "1"}, "x")
        assert math.isnan(data.metrics["b"])
        assert len(client.get_metric_history(run_id, "a")) == 1000
    assert "fast+" not in (tmp_path / "server" / "server.log").read_text()
