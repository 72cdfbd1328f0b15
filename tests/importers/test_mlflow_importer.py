"""`MlflowImporter`: which runs of MLflow arrive in W&B, where, and with which key."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.importers import ImportResult, MlflowImporter, MlflowRun, Namespace
from tests.importers.conftest import TARGET_KEY
from tests.support.wandb_state import project_of, run_state
from tests.wandb_server import Run, WandbServer

pytestmark = pytest.mark.slow


@pytest.fixture
def importer(store: str, target: WandbServer) -> MlflowImporter:
    return MlflowImporter(store, wandb_base_url=target.url, wandb_api_key=TARGET_KEY)


def runs_of(server: WandbServer, entity: str, project: str) -> dict[str, Run]:
    """The runs of a project by their display names."""
    found = project_of(server, entity, project).runs.values()
    return {run.display_name: run for run in found}


def actions(result: ImportResult) -> list[str]:
    return [outcome.action for outcome in result.outcomes]


def test_all_runs_arrive_and_are_skipped_the_second_time(
    importer: MlflowImporter, target: WandbServer
) -> None:
    """Points, params, files, state and the id of the run are those of MLflow."""
    place = Namespace("bob", "moved")
    collected = list(importer.collect_runs())
    assert [run.display_name() for run in collected] == ["a", "b", "c"]
    result = importer.import_runs(collected, namespace=place)
    assert (actions(result), result.failed) == (["migrated"] * 3, ())
    arrived = runs_of(target, "bob", "moved")
    assert sorted(arrived) == ["a", "b", "c"]
    assert {run.name for run in arrived.values()} == {run.run_id() for run in collected}
    for name, run in arrived.items():
        state = run_state(run)
        assert state["state"] == "finished"
        assert state["config"]["lr"] == (0.5 if name == "a" else 0.25)
        assert [(row["loss"], row["mlflow_step"]) for row in state["rows"]] == [(4, 1), (2, 2)]
        assert run.files["artifacts/n.txt"].size == len(f"notes of {name}")
    again = importer.import_runs(importer.collect_runs(), namespace=place)
    assert again.counts == {
        "migrated": 0, "repaired": 0, "skipped": 3, "failed": 0, "reports_not_carried": 0,
    }  # fmt: skip


def test_own_runs_without_files_and_then_with_them(
    importer: MlflowImporter, store: str, target: WandbServer
) -> None:
    """Runs that MLflow's client found; a run without its files is completed by the next import."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    ids = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(ids, "params.lr = '0.25'")
    place = Namespace("bob", "some")

    def chosen() -> list[MlflowRun]:
        return [MlflowRun(run, client) for run in found]

    result = importer.import_runs(iter(chosen()), artifacts=False, namespace=place, parallel=False)
    assert actions(result) == ["migrated"] * 2
    arrived = runs_of(target, "bob", "some")
    assert sorted(arrived) == ["b", "c"]
    assert not any("artifacts/n.txt" in run.files for run in arrived.values())
    result = importer.import_runs([*chosen(), *chosen()], namespace=place, max_workers=2)
    assert actions(result) == ["repaired"] * 2
    arrived = runs_of(target, "bob", "some")
    assert all("artifacts/n.txt" in run.files for run in arrived.values())


def test_runs_of_a_tracking_server(server: str, target: WandbServer) -> None:
    """Points and files come over HTTP."""
    from mlflow import MlflowClient

    client = MlflowClient(server)
    there = client.create_experiment("imported over http")
    created = client.create_run(there, run_name="remote").info.run_id
    client.log_metric(created, "loss", 0.5, step=3)
    client.log_text(created, "text", "n.txt")
    client.set_terminated(created)
    importer = MlflowImporter(server, dst_base_url=target.url, dst_api_key=TARGET_KEY)
    chosen = [MlflowRun(run, client) for run in client.search_runs([there])]
    assert actions(importer.import_runs(chosen, namespace=Namespace("bob", "moved"))) == [
        "migrated"
    ]
    run = runs_of(target, "bob", "moved")["remote"]
    assert [(row["loss"], row["mlflow_step"]) for row in run_state(run)["rows"]] == [(0.5, 3)]
    assert run.files["artifacts/n.txt"].size == len("text")


def test_parents_of_replicas_are_left_out_of_own_runs_too(
    importer: MlflowImporter, store: str, target: WandbServer
) -> None:
    """A run that is only the parent of a group that came from W&B is no run of W&B's."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    runs = list(importer.collect_runs())
    client.set_tag(runs[0].run_id(), "mlflow.wandb.parent_of_group", "g")
    assert [run.display_name() for run in importer.collect_runs()] == ["b", "c"]
    fresh = [MlflowRun(client.get_run(run.run_id()), client) for run in runs]
    result = importer.import_runs(fresh, artifacts=False, namespace=Namespace("bob", "moved"))
    assert sorted(outcome.run.name for outcome in result.outcomes) == ["b", "c"]
    assert sorted(runs_of(target, "bob", "moved")) == ["b", "c"]


def test_runs_without_a_namespace_go_into_the_keys_own_entity(
    store: str, target: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project has one name; server and key are wandb's own unless they are given."""
    monkeypatch.setenv("WANDB_BASE_URL", target.url)
    monkeypatch.setenv("WANDB_API_KEY", TARGET_KEY)
    importer = MlflowImporter(mlflow_tracking_uri=store)
    result = importer.import_runs(importer.collect_runs(limit=1))
    assert actions(result) == ["migrated"]
    assert list(runs_of(target, "tester", "imported-from-mlflow")) == ["a"]


def test_a_run_of_others_with_the_same_id_is_a_failure_and_a_warning(
    importer: MlflowImporter, target: WandbServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not touched; the others arrive."""
    [first, *_] = importer.collect_runs()
    target.add_run("moved", first.run_id(), entity="bob", display_name="precious")
    with caplog.at_level(logging.WARNING):
        result = importer.import_runs(importer.collect_runs(), namespace=Namespace("bob", "moved"))
    assert sorted(actions(result)) == ["migrated", "migrated", "skipped"]
    assert [outcome.run.run_id for outcome in result.failed] == [first.run_id()]
    assert (result.counts["skipped"], result.counts["failed"]) == (0, 1)
    assert f"{first.run_id()} was not imported" in caplog.text
    assert set(runs_of(target, "bob", "moved")) == {"precious", "b", "c"}


def test_runs_are_collected_as_they_are_taken(target: WandbServer, folder: Path) -> None:
    """Nothing is opened before the first run is asked for."""
    importer = MlflowImporter(
        f"sqlite:///{folder}/none.db", dst_base_url=target.url, dst_api_key=TARGET_KEY
    )
    runs = importer.collect_runs()
    with pytest.raises(UsageError, match="there is no MLflow store"):
        next(runs)
    assert not target.requests


def test_the_key_is_in_no_text_file_or_variable(
    importer: MlflowImporter, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the importer's and the result's text, nor in the log, the environment or wandb's
    own files."""
    with caplog.at_level(logging.DEBUG):
        result = importer.import_runs(importer.collect_runs(), namespace=Namespace("bob", "moved"))
    assert actions(result) == ["migrated"] * 3
    texts = [repr(importer), str(vars(importer)), repr(result), caplog.text, *os.environ.values()]
    assert not any(TARGET_KEY in text for text in texts)
    places = [folder, *(Path(os.environ[f"WANDB_{name}"]) for name in ("DIR", "CACHE_DIR"))]
    for file in (file for place in places for file in place.rglob("*") if file.is_file()):
        assert TARGET_KEY.encode() not in file.read_bytes(), file


def test_wrong_arguments_are_refused(importer: MlflowImporter, store: str) -> None:
    """An argument that no version had is a TypeError; a server without a key is named."""
    with pytest.raises(TypeError):
        MlflowImporter(store, tracking="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        MlflowImporter("https://w.example.com", "key", store)  # type: ignore[misc]
    with pytest.raises(TypeError, match="other names"):
        MlflowImporter(store, wandb_api_key="a", dst_api_key="b")
    with pytest.raises(TypeError):
        importer.import_runs([], everything=True)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="no API key for the W&B server"):
        MlflowImporter(store, wandb_base_url="http://127.0.0.1:9")
    with pytest.raises(UsageError) as refused:
        MlflowImporter(store, wandb_base_url="https://user:secret@h", wandb_api_key="k")
    assert "secret" not in str(refused.value)
