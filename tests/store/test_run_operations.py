"""Each operation on a run is one operation in its journal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelParameter, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking._tracking_service import utils

from mlflow_wandb_plugin.mapping.journal_state import JournalModels, JournalState
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.store import mirrored_runs
from tests.store.conftest import Sent
from tests.support.outboxes import JournalContent

SentOf = Callable[[str], JournalContent]


@pytest.fixture
def run_id(mirrored: str) -> str:
    return str(MlflowClient().create_run("0", run_name="n", start_time=7).info.run_id)


def ops(run: JournalContent) -> list[str]:
    return [operation["op"] for operation in run.operations]


def test_life_of_a_run(run_id: str, sent_of: SentOf) -> None:
    """Creation, renaming, end, deletion and restoring are journalled with MLflow's times."""
    client = MlflowClient()
    client.update_run(run_id, name="other")
    client.set_terminated(run_id, "FAILED", end_time=99)
    client.delete_run(run_id)
    client.restore_run(run_id)
    run = sent_of(run_id)
    assert ops(run) == ["create", "update", "update", "delete", "restore"]
    created, renamed, ended = run.operations[:3]
    assert (created["name"], created["start_time"]) == ("n", 7)
    assert created["user"] == MlflowClient().get_run(run_id).info.user_id
    assert (renamed["status"], renamed["end_time"], renamed["name"]) == ("RUNNING", None, "other")
    assert (ended["status"], ended["end_time"], ended["name"]) == ("FAILED", 99, None)


def test_points_in_columns_are_batches_of_metrics(sqlite_uri: str, sent_of: SentOf) -> None:
    """Points that a server takes as columns are journalled in batches of MLflow's size, once."""
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    run_id = MlflowClient().create_run("0").info.run_id
    numbers = list(range(1200))
    store: Any = MlflowClient()._tracking_client.store
    store.log_points(run_id, [Points("x", [0.5] * 1200, numbers, numbers)])
    with pytest.raises(MlflowException, match="Invalid value"):
        store.log_points(run_id, [Points("x", [0.5], [-1], [1])])
    _, first, second = sent_of(run_id).operations
    assert [len(first["metrics"]), len(second["metrics"])] == [1000, 200]
    assert second["metrics"][-1] == ["x", 0.5, 1199, 1199]
    assert len(MlflowClient().get_metric_history(run_id, "x")) == 1200


def test_metrics_keep_value_step_and_time(run_id: str, sent_of: SentOf) -> None:
    """A batch of metrics is one operation."""
    client = MlflowClient()
    client.log_metric(run_id, "x", math.nan, timestamp=5, step=-3)
    client.log_batch(
        run_id,
        [Metric("x", math.inf, 6, 2**40), Metric("y", 1, 6, 0)],
        [Param("p", "1")],
        [RunTag("t", "u")],
    )
    _, first, second = sent_of(run_id).operations
    assert [math.isnan(value) for _, value, _, _ in first["metrics"]] == [True]
    assert first["metrics"][0][2:] == [5, -3]
    assert second["metrics"] == [["x", math.inf, 6, 2**40], ["y", 1.0, 6, 0]]
    assert (second["params"], second["tags"]) == ({"p": "1"}, {"t": "u"})


def test_what_mlflow_refuses_is_not_mirrored(run_id: str, sent_of: SentOf) -> None:
    """The user gets MLflow's error, and the journal has only the next, valid write."""
    client = MlflowClient()
    client.log_param(run_id, "p", 1)
    for refused in (
        lambda: client.log_param(run_id, "p", 2),
        lambda: client.log_metric(run_id, "x" * 300, 1),
        lambda: client.delete_tag(run_id, "missing"),
        lambda: client.log_metric("0" * 32, "x", 1),
    ):
        with pytest.raises(MlflowException):
            refused()
    client.set_tag(run_id, "t", "u")
    run = sent_of(run_id)
    assert ops(run) == ["create", "batch", "batch"]
    assert run.params == {"p": "1"}


def test_async_logging_is_mirrored(run_id: str, sent_of: SentOf) -> None:
    """MLflow's queue, which has a bound method, calls the mirrored one."""
    client = MlflowClient()
    for step in range(5):
        client.log_metric(run_id, "x", step, step=step, synchronous=False)
    mlflow.flush_async_logging()
    assert sorted(step for _, _, step in sent_of(run_id).metrics["x"]) == [0, 1, 2, 3, 4]


def test_model_of_mlflow_2_style(run_id: str, sent_of: SentOf) -> None:
    """The tag with a run's models, which the store itself writes, is journalled."""
    store = utils._get_store()
    store.record_logged_model(run_id, Model(artifact_path="m", run_id=run_id))
    store.record_logged_model(run_id, Model(artifact_path="n", run_id=run_id))
    tags = MlflowClient().get_run(run_id).data.tags
    assert sent_of(run_id).tags["mlflow.log-model.history"] == tags["mlflow.log-model.history"]
    assert '"n"' in tags["mlflow.log-model.history"]


def test_model_deleted(run_id: str, sent_of: SentOf) -> None:
    """A deleted model is journalled with its description and the status DELETED."""
    client = MlflowClient()
    model = client.create_logged_model("0", name="m", source_run_id=run_id, params={"a": "1"})
    client.delete_logged_model(model.model_id)
    told = sent_of(run_id).models[model.model_id]
    assert (told["name"], told["status"], told["params"]) == ("m", "DELETED", {"a": "1"})


def test_model_without_a_run_stays_in_mlflow(
    mirrored: str, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one warning, because W&B keeps artifacts by run."""
    client = MlflowClient()
    model = client.create_logged_model("0", name="m")
    client.set_logged_model_tags(model.model_id, {"a": "b"})
    client.finalize_logged_model(model.model_id, "READY")
    assert not sent()
    assert caplog.text.count("logged models that belong to no run stay in MLflow") == 1


def test_unexpected_failure_is_counted_in_the_run(
    run_id: str, sent_of: SentOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours loses the operation in W&B and counts it; MLflow has it."""
    with monkeypatch.context() as patched:
        patched.setattr(
            "mlflow_wandb_plugin.store.run_operations._append_batch", lambda *_, **__: 1 / 0
        )
        MlflowClient().log_metric(run_id, "x", 1)
    MlflowClient().log_metric(run_id, "x", 2, step=1)
    run = sent_of(run_id)
    assert run.lost == {"log_metric, for ZeroDivisionError": 1}
    assert [value for value, _, _ in run.metrics["x"]] == [2]
    assert len(MlflowClient().get_metric_history(run_id, "x")) == 2


def test_number_of_runs_remembered_is_bounded(
    mirrored: str, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long-running server forgets runs, and asks MLflow again."""
    monkeypatch.setattr(mirrored_runs, "MOST_REMEMBERED", 2)
    client = MlflowClient()
    runs = [client.create_run("0").info.run_id for _ in range(4)]
    for run in runs:
        client.log_metric(run, "x", 1)
    outgoing = sent()
    assert [len(outgoing[run].of("create")) for run in runs] == [1, 1, 1, 1]
    assert all(outgoing[run].metrics for run in runs)
    assert len(mirrored_runs.current_mirror()._runs) <= 2


def test_params_of_a_model_cost_no_second_read(
    run_id: str, sent_of: SentOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are journalled as they were passed, and added to those that the model has."""
    client = MlflowClient()
    model = client.create_logged_model("0", name="m", source_run_id=run_id, params={"a": "1"})
    reads: list[str] = []
    store = utils._get_store()
    original = store.get_logged_model
    monkeypatch.setattr(
        type(store), "get_logged_model", lambda _, *args: reads.append(args[0]) or original(*args)
    )
    store.log_logged_model_params(model.model_id, params=[LoggedModelParameter("b", "2")])
    assert not reads
    models = JournalModels(dict)
    for operation in sent_of(run_id).of("model"):
        models.apply(operation, JournalState())
    [told] = models.take_changed(unfinished=True)
    assert (told.name, told.params) == ("m", {"a": "1", "b": "2"})
