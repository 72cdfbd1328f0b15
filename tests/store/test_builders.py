"""Stores behind ``wandb+`` are MLflow's own, found under their native URI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._tracking_service import utils

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mlflow_access.own_stores import is_own
from mlflow_wandb_plugin.store import entry
from mlflow_wandb_plugin.store.fast_writes import FastWrites
from mlflow_wandb_plugin.store.group_commit import GroupCommit
from mlflow_wandb_plugin.store.mirrored_runs import current_mirror
from mlflow_wandb_plugin.store.swap import is_swapped
from tests.store.conftest import Sent
from tests.support.environment import isolated
from tests.support.mlflow_features import IS_3_1, needs_workspaces


def test_set_tracking_uri_leaves_the_native_uri(mirrored: str) -> None:
    """MLflow, which compares schemes in many places, only sees schemes that it knows."""
    assert mlflow.get_tracking_uri() == mirrored
    assert mlflow.get_registry_uri() == mirrored
    assert os.environ["MLFLOW_TRACKING_URI"] == mirrored
    store = utils._get_store()
    assert isinstance(store, SqlAlchemyStore)
    assert is_swapped(store)


def test_client_given_the_prefixed_uri(sqlite_uri: str, sent: Sent) -> None:
    """A client with a ``wandb+`` URI mirrors, also without the process's tracking URI."""
    client = MlflowClient(f"wandb+{sqlite_uri}")
    run = client.create_run("0", run_name="mine")
    client.create_registered_model("m")
    client.create_model_version("m", f"runs:/{run.info.run_id}/x", run.info.run_id)
    outgoing = sent()[run.info.run_id]
    assert outgoing.name == "mine"
    assert list(outgoing.versions) == [("m", "1")]


def test_plain_uri_in_the_same_process_is_not_mirrored(
    mirrored: str, empty_store: Path, tmp_path: Path, sent: Sent
) -> None:
    """Another store and its artifacts are not mirrored."""
    from tests.support.stores import copy_store

    other = MlflowClient(copy_store(empty_store, tmp_path / "other.db"))
    run = other.create_run("0")
    other.log_text(run.info.run_id, "text", "text.txt")
    assert not sent()


def test_plain_store_beside_a_mirrored_one_is_no_business_of_it(
    mirrored: str,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a plain store does with artifacts, models and versions asks the mirrored store nothing,
    by MLflow's fluent calls and by a client of its own."""
    from tests.support.stores import copy_store

    with mlflow.start_run():
        mlflow.log_text("mirrored", "a.txt")
    asked: list[str] = []
    store = utils._get_store()
    for name in ("get_run", "get_logged_model"):
        monkeypatch.setattr(store, name, lambda *_, _name=name: asked.append(_name))
    other = copy_store(empty_store, tmp_path / "other.db")
    explicit = MlflowClient(other)
    run = explicit.create_run("0")
    explicit.log_text(run.info.run_id, "plain", "a.txt")
    mlflow.set_tracking_uri(other)
    with mlflow.start_run() as run:
        mlflow.log_text("plain", "a.txt")
        model = mlflow.initialize_logged_model("m")
        (tmp_path / "weights").write_text("w")
        MlflowClient().log_model_artifact(model.model_id, str(tmp_path / "weights"))
        MlflowClient().create_registered_model("r")
        MlflowClient().create_model_version("r", f"runs:/{run.info.run_id}/m", run.info.run_id)
    assert not asked
    assert "W&B's journal" not in caplog.text


def test_the_store_of_an_artifact_is_the_one_that_mlflow_names(
    sqlite_uri: str, empty_store: Path, tmp_path: Path, sent: Sent
) -> None:
    """A client of a mirrored store and of a registry beside it, in a process whose own tracking
    URI is a plain store."""
    from tests.support.stores import copy_store

    mlflow.set_tracking_uri(copy_store(empty_store, tmp_path / "plain.db"))
    registry = copy_store(empty_store, tmp_path / "registry.db")
    client = MlflowClient(f"wandb+{sqlite_uri}", registry)
    run = client.create_run("0")
    # As in another process: the run has to be found in its store.
    current_mirror()._runs.clear()
    client.log_text(run.info.run_id, "text", "a.txt")
    client.create_registered_model("m")
    current_mirror()._runs.clear()
    client.create_model_version("m", f"runs:/{run.info.run_id}/x", run.info.run_id)
    outgoing = sent()[run.info.run_id]
    assert list(outgoing.files) == ["a.txt"]
    assert list(outgoing.versions) == [("m", "1")]


def test_a_run_that_the_mirrored_store_does_not_have_is_asked_for_once(
    mirrored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An artifact folder named like that of an unknown run is none of ours, without a warning."""
    store = utils._get_store()
    asked: list[str] = []
    get_run = store.get_run
    monkeypatch.setattr(store, "get_run", lambda run_id: asked.append(run_id) or get_run(run_id))
    (tmp_path / "a.txt").write_text("a")
    repository = get_artifact_repository(str(tmp_path / ("f" * 32) / "artifacts"))
    for _ in range(3):
        repository.log_artifact(str(tmp_path / "a.txt"))
    assert asked == ["f" * 32]
    assert "W&B's journal" not in caplog.text


def test_store_that_was_built_unmirrored_is_built_again(sqlite_uri: str, sent: Sent) -> None:
    """MLflow caches stores by URI: a later ``wandb+`` URI does not return the old one."""
    mlflow.set_tracking_uri(sqlite_uri)
    assert not is_swapped(utils._get_store())
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    with mlflow.start_run() as run:
        pass
    assert run.info.run_id in sent()


def test_variable_set_after_import(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    """The first store that is built replaces the variable by the native URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"wandb+{sqlite_uri}")
    with mlflow.start_run() as run:
        assert mlflow.get_tracking_uri() == sqlite_uri
    assert run.info.run_id in sent()


def test_registry_uri_of_its_own(sqlite_uri: str, sent: Sent) -> None:
    """The prefix of `set_registry_uri` is removed when its store is built."""
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    mlflow.set_registry_uri(f"wandb+{sqlite_uri}")
    MlflowClient().search_registered_models()
    assert mlflow.get_registry_uri() == sqlite_uri


@pytest.mark.parametrize("uri", ["wandb+foo://x", "wandb+databricks"])
def test_wrong_uri_is_one_line(fresh_process: Path, uri: str) -> None:
    """Both functions raise an error at once that is MLflow's and the package's."""
    for attempt in (mlflow.set_tracking_uri, lambda uri: MlflowClient(uri).search_experiments()):
        with pytest.raises(MlflowException) as caught:
            attempt(uri)
        assert isinstance(caught.value, UsageError)
        assert "\n" not in str(caught.value)
        assert "wandb+" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"), [("MLFLOW_WANDB_HOMES", "mlflow"), ("MLFLOW_WANDB_HOMES", "wandb"),
                            ("MLFLOW_WANDB_MIRROR", "off")]
)  # fmt: skip
def test_switched_off(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, sent: Sent, variable: str, value: str
) -> None:
    """With MLFLOW_WANDB_HOMES set to one side, the URI works and nothing is journalled."""
    monkeypatch.setenv(variable, value)
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    with mlflow.start_run():
        mlflow.log_text("text", "text.txt")
    assert not is_swapped(utils._get_store())
    assert not sent()


@needs_workspaces
def test_workspaces_and_scorers_are_mlflows(sqlite_uri: str) -> None:
    """Their entry points build what the native URI builds."""
    from mlflow.genai.scorers.registry import MlflowTrackingStore
    from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as Workspaces
    from mlflow.tracking._workspace.registry import get_workspace_store

    assert isinstance(entry.scorer_store(f"wandb+{sqlite_uri}"), MlflowTrackingStore)
    assert isinstance(get_workspace_store(f"wandb+{sqlite_uri}"), Workspaces)
    assert isinstance(entry.workspace_provider(f"wandb+{sqlite_uri}"), Workspaces)


def test_entry_points_alone_are_enough(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    """The store is mirrored in a version of MLflow whose registries cannot be wrapped."""
    from mlflow.tracking.registry import StoreRegistry

    original = StoreRegistry.get_store_builder._mlflow_wandb_original
    monkeypatch.setattr(StoreRegistry, "get_store_builder", original)
    client = MlflowClient(f"wandb+{sqlite_uri}")
    run = client.create_run("0")
    client.create_registered_model("m")
    client.create_model_version("m", f"runs:/{run.info.run_id}/x", run.info.run_id)
    assert list(sent()[run.info.run_id].versions) == [("m", "1")]


def test_mlflow_still_has_what_is_replaced(mirrored: str) -> None:
    """The functions and attributes of MLflow that the package wraps exist and are wrapped."""
    from mlflow.store.artifact.artifact_repository_registry import ArtifactRepositoryRegistry
    from mlflow.tracking._tracking_service.client import TrackingServiceClient
    from mlflow.tracking.registry import StoreRegistry

    store = utils._get_store()
    for function in (
        StoreRegistry.get_store_builder,
        ArtifactRepositoryRegistry.get_artifact_repository,
        utils.set_tracking_uri,
        mlflow.set_tracking_uri,
        TrackingServiceClient._get_artifact_repo,
    ):
        assert hasattr(function, "_mlflow_wandb_original"), function
    assert store._async_logging_queue._logging_func == store.log_batch


@pytest.mark.slow
def test_db_upgrade(tmp_path: Path) -> None:
    """`mlflow db upgrade wandb+sqlite:///…` creates the tables."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sqlalchemy.create_engine(f"wandb+sqlite:///{tmp_path / 'new.db'}")
    if IS_3_1:
        # It upgrades the first MLflow's tables, and nothing else.
        Base.metadata.create_all(engine)
    env = isolated(tmp_path)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", "wandb+sqlite:///new.db"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"runs", "logged_models"} <= set(sqlalchemy.inspect(engine).get_table_names())
    engine.dispose()


def fast_and_mirrored(uri: str) -> tuple[bool, bool]:
    store = utils._get_store(uri)
    return isinstance(store, FastWrites), is_swapped(store)


def test_fast_prefix(sqlite_uri: str, sent: Sent) -> None:
    """MLflow shows the native URI; the store writes fast, as does the queue of asynchronous calls,
    and nothing is mirrored."""
    mlflow.set_tracking_uri(f"fast+{sqlite_uri}")
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == sqlite_uri
    assert fast_and_mirrored(sqlite_uri) == (True, False)
    store = utils._get_store()
    assert type(store).__name__ == "SqlAlchemyStore"
    assert store._async_logging_queue._logging_func == store.log_batch
    with mlflow.start_run() as run:
        mlflow.log_metrics({"a": 1.0, "b": 2.0}, step=1)
        mlflow.log_metric("a", 3.0, step=2, synchronous=False).wait()
        mlflow.log_params({"p": 1})
        mlflow.set_tags({"t": 1})
    data = mlflow.get_run(run.info.run_id).data
    assert (data.metrics, data.params, data.tags["t"]) == ({"a": 3.0, "b": 2.0}, {"p": "1"}, "1")
    assert not sent()


@pytest.mark.parametrize("first", ["", "fast+"])
def test_a_store_is_built_again_for_another_prefix(sqlite_uri: str, first: str) -> None:
    """Plain, then fast, then mirrored: each time MLflow uses the new one; a repeat changes
    nothing."""
    mlflow.set_tracking_uri(f"{first}{sqlite_uri}")
    assert fast_and_mirrored(sqlite_uri) == (bool(first), False)
    mlflow.set_tracking_uri(f"fast+{sqlite_uri}")
    assert fast_and_mirrored(sqlite_uri) == (True, False)
    store = utils._get_store()
    mlflow.set_tracking_uri(f"fast+{sqlite_uri}")
    assert utils._get_store() is store
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    assert fast_and_mirrored(sqlite_uri) == (True, True)


def test_a_mirrored_store_writes_fast(
    mirrored: str, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast method is called between the two parts of the mirrored operation; what it leaves to
    MLflow is mirrored once, and what fails is not."""
    written: list[bool] = []
    original = GroupCommit.write

    def write(self: GroupCommit, batch: Any) -> bool:
        written.append(original(self, batch))
        return written[-1]

    monkeypatch.setattr(GroupCommit, "write", write)
    with mlflow.start_run() as run:
        written.clear()
        mlflow.log_metric("a", 1.0, step=1)
        mlflow.log_param("p", 1)
        with pytest.raises(MlflowException, match="Changing param values"):
            mlflow.log_param("p", 2)
        mlflow.set_tag("mlflow.runName", "new")
    assert written == [True, True, False]
    outgoing = sent()[run.info.run_id]
    [(value, _, step)] = outgoing.metrics["a"]
    assert (value, step) == (1.0, 1)
    assert outgoing.params == {"p": "1"}


def test_fast_prefix_of_what_is_no_database(fresh_process: Path) -> None:
    """It is refused in one line."""
    with pytest.raises(MlflowException, match=r"fast\+http is no database") as caught:
        mlflow.set_tracking_uri("fast+http://127.0.0.1:1")
    assert isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


def test_a_backfill_into_a_fast_store_goes_by_sql(sqlite_uri: str) -> None:
    """A process whose tracking URI has the prefix loses none of a backfill's speed."""
    mlflow.set_tracking_uri(f"fast+{sqlite_uri}")
    assert is_own(type(utils._get_store()))
    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    assert not is_own(type(utils._get_store()))
