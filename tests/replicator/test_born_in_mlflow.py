"""From MLflow's API to W&B: what a script logs through a mirrored store is what W&B holds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from mlflow_wandb_plugin.mapping import param_value
from tests.store.test_conformance import PROGRAM
from tests.support.environment import isolated
from tests.support.mirrored import forward
from tests.support.outboxes import Outgoing, no_forwarder, read_outbox
from tests.support.processes import started
from tests.support.stores import copy_store
from tests.wandb_server import Run, WandbServer
from tests.wandb_server.clients import environment

pytestmark = pytest.mark.slow


@dataclass
class Carried:
    """The program's runs in all three places.

    Attributes:
        sent: from the journals, with digests in place of files.
        wandb: the server that they went to.
    """

    client: MlflowClient
    sent: dict[str, Outgoing]
    digests: dict[str, dict[str, str]]
    models: dict[str, set[str]]
    wandb: WandbServer
    left: list[str]

    def run(self, run_id: str) -> Run:
        return self.wandb.run(f"{self.sent[run_id].header['project']}/{run_id}")


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Carried]:
    """The whole program on a mirrored SQLite store, its journals then forwarded."""
    folder = tmp_path_factory.mktemp("born")
    work = folder / "work"
    work.mkdir()
    uri = copy_store(empty_store, folder / "mlflow.db")
    outbox = work / "wandb" / "mirror"
    with no_forwarder(outbox):
        command = [sys.executable, str(PROGRAM), f"wandb+{uri}"]
        with started(command, isolated(folder), work) as process:
            out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
        sent = read_outbox(outbox)
        digests = {
            run_id: {path: digest(file) for path, file in run.files.items()}
            for run_id, run in sent.items()
        }
        models = {
            model_id: {digest(file) for file in files.values()}
            for run in sent.values()
            for model_id, files in run.model_files.items()
        }
    with WandbServer(folder / "wandb-server") as wandb:
        env = environment(wandb, folder / "private", {"WANDB_MODE": "online"})
        forward(outbox, env, work)
        left = [path.name for path in outbox.iterdir() if path.stem in sent]
        yield Carried(MlflowClient(uri), sent, digests, models, wandb, left)
        assert not wandb.executor.unknown


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def runs_of(client: MlflowClient) -> list[Any]:
    experiments = client.search_experiments(view_type=ViewType.ALL)
    return [
        client.get_run(run.info.run_id)
        for experiment in experiments
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    ]


def test_all_runs_are_in_wandb_and_the_outbox_is_empty(carried: Carried) -> None:
    """One W&B run for each MLflow run, of its id, in the project of its experiment."""
    assert sorted(carried.left) == sorted(f"{run_id}.status" for run_id in carried.sent)
    found = Counter(run.name for run in carried.wandb.runs)
    assert found == Counter(run.info.run_id for run in runs_of(carried.client))
    assert len(found) >= 12


def test_params_metrics_times_and_states_are_equal(carried: Carried) -> None:
    """Point by point, whatever the order of steps."""
    for run in runs_of(carried.client):
        there = carried.run(run.info.run_id)
        params = {
            key: param_value(there.values[key]) for key in run.data.params if key in there.values
        }
        assert {key: _number(value) for key, value in params.items()} == {
            key: _number(value) for key, value in run.data.params.items()
        }
        assert _points_in_wandb(there) == _points_in_mlflow(carried.client, run)
        status = run.info.status
        states = {"FINISHED": ("finished", 0), "FAILED": ("failed", 1), "KILLED": ("failed", 255)}
        # A script that leaves a run open has not ended it: MLflow says that it goes on.
        assert (there.state, there.exit_code) == states.get(status, ("failed", 255)), run.info
        about = there.values["mlflow"]
        assert (about["status"], about["start_time"]) == (status, run.info.start_time)
        assert about.get("end_time") == run.info.end_time
        assert about["lifecycle_stage"] == run.info.lifecycle_stage


def _number(text: str) -> object:
    # wandb-core writes 1.0 as 1.
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _points_in_wandb(run: Run) -> Counter[tuple[str, str, int, int]]:
    found: Counter[tuple[str, str, int, int]] = Counter()
    for line in run.history.live:
        row = dict(line.row)
        at, step = round(row["_timestamp"] * 1000), row.get("mlflow_step", 0)
        for key in row.keys() - {"_timestamp", "_runtime", "_step", "mlflow_step"}:
            if isinstance(row[key], (int, float)):
                found[key, _stored(row[key]), at, step] += 1
    return found


def _points_in_mlflow(client: MlflowClient, run: Any) -> Counter[tuple[str, str, int, int]]:
    return Counter(
        (key, _stored(metric.value), metric.timestamp, metric.step)
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    )


def _stored(value: float) -> str:
    # MLflow's database stores no infinity: its largest number stands for it.
    largest = sys.float_info.max
    return "nan" if math.isnan(value) else repr(float(max(-largest, min(largest, value))))


def test_names_notes_tags_and_nesting_are_in_wandb(carried: Carried) -> None:
    """Tags as labels and in the config; a child is grouped under its parent."""
    for run in runs_of(carried.client):
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


def test_files_are_equal(carried: Carried) -> None:
    """Every file that MLflow's API wrote to a run, byte for byte."""
    for run_id, digests in carried.digests.items():
        files = carried.run(run_id).files
        there = {
            name.removeprefix("artifacts/"): digest(blob.path)
            for name, blob in files.items()
            if name.startswith("artifacts/")
        }
        assert there == digests


def test_logged_images_figures_and_tables_are_media(carried: Carried) -> None:
    """By key or by path; a table that grew is shown each time."""
    (parent,) = [run for run in carried.wandb.runs if run.display_name == "parent"]
    kinds: Counter[tuple[str, str]] = Counter()
    for line in parent.history.live:
        for key, value in line.row.items():
            if isinstance(value, dict):
                kinds[key, value["_type"]] += 1
                if key == "pictures/dog":
                    assert line.row["mlflow_step"] == 3
    assert kinds == {
        ("pictures/dog", "image-file"): 1, ("image.png", "image-file"): 1,
        ("figure.png", "image-file"): 1, ("table.json", "table-file"): 2,
    }  # fmt: skip


def test_models_have_their_files_and_versions(carried: Carried) -> None:
    """Artifacts of type model; each registered version and its aliases are aliases."""
    ((model_id, digests),) = carried.models.items()
    (run,) = [run for run in carried.wandb.runs if run.display_name == "models"]
    (model,) = [a for a in run.logged_artifacts if a.collection.type == "model"]
    assert model.collection.name == "classifier"
    assert {digest(blob.path) for blob in model.files.values()} == digests
    pointing = {name for name, found in model.collection.aliases.items() if found is model}
    assert pointing == {"latest", model_id, "registered-v1", "registered-champion", "copied-v1"}
    metadata = json.loads(model.metadata or "{}")
    theirs = carried.client.get_logged_model(model_id)
    assert metadata["mlflow_params"] == theirs.params
    assert metadata["mlflow_tags"]["later"] == "yes"
    registered = {entry["name"]: entry for entry in metadata["mlflow_registered_versions"]}
    assert registered["registered"]["description"] == "the first"


def test_datasets_and_traces(carried: Carried) -> None:
    """A dataset is a used artifact; traces are counted as not mirrored."""
    (parent,) = [run for run in carried.wandb.runs if run.display_name == "parent"]
    assert [artifact.collection.name for artifact in parent.used_artifacts] == ["frame"]
    (traced,) = [run for run in carried.wandb.runs if run.display_name == "traced"]
    assert traced.values["mlflow"]["traces_not_mirrored"] == 1
