"""A run is written to a tracking server in few requests, as MLflow's client writes it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Param

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import Checkpoint, FileRef, RunInfo
from mlflow_wandb_plugin.core.protocols import TargetOptions, WritePath
from mlflow_wandb_plugin.targets.mlflow import run_progress
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.targets.mlflow.writing import end, points, run_info


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Method and path of each request that is sent."""
    sent: list[str] = []
    request = requests.Session.request

    def noted(session: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        sent.append(f"{method} {url.partition('mlflow/')[2] or 'artifact'}")
        return request(session, method, url, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "request", noted)
    return sent


def write(target: MlflowTarget, info: RunInfo, folder: Path | None = None) -> str:
    """A small run of two metrics, two params, a W&B tag, perhaps with a file; its id in MLflow."""
    writer = target.open(info, "backfill", target.find(info))
    writer.append(points("a", [1.0, 2.0]))
    writer.append(points("b", [float("nan"), 4.0]))
    if folder is not None:
        (folder / "kept.txt").write_text("kept")
        writer.add(FileRef("kept.txt", folder / "kept.txt"))
    writer.checkpoint(Checkpoint("seg", 2))
    end(writer, info)
    writer.close()
    return writer.run_id


def small(project: str, run_id: str) -> RunInfo:
    config = {"lr": 0.1, "layers": 3}
    first = {(key,): value for key, value in config.items()}
    return run_info(
        run_id=run_id, project=project, config=config, first_config=first, tags=("good",)
    )


def test_the_requests_of_a_small_run(server: str, requested: list[str]) -> None:
    """Once the runs of a project are known, a small run takes seven requests and two uploads."""
    target = MlflowTarget(server)
    for name in ("one", "two", "three"):
        write(target, small("few requests", name))
    requested.clear()
    write(target, small("few requests", "four"))
    assert sorted(requested[5:7]) == ["PUT artifact", "PUT artifact"]
    assert requested[:5] + requested[7:] == [
        "POST runs/create", "POST experiments/search", "POST runs/search", "POST runs/delete-tag",
        "POST runs/log-batch", "POST runs/update", "POST runs/log-batch",
    ]  # fmt: skip


def test_it_is_the_run_that_mlflows_client_writes(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points, params, tags, state, times and files are equal; only the ids differ."""
    # MLflow 3.1's client sends artifacts to the process's own server, whatever its own is.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    seen: list[dict[str, Any]] = []
    paths: tuple[WritePath, ...] = ("auto", "api")
    for path in paths:
        target, client = MlflowTarget(server, TargetOptions(write_path=path)), MlflowClient(server)
        folder = tmp_path / path
        folder.mkdir()
        run_id = write(target, small("the same", path), folder)
        run = client.get_run(run_id)
        histories = [client.get_metric_history(run_id, key) for key in "ab"]
        seen.append(
            {
                "params": run.data.params,
                "tags": {key: value for key, value in run.data.tags.items() if path not in value},
                "info": (run.info.run_name, run.info.status, run.info.end_time),
                "points": [
                    (m.step, m.timestamp, str(m.value)) for found in histories for m in found
                ],
                "files": [item.path for item in client.list_artifacts(run_id, "wandb/files")],
            }
        )
    assert seen[0] == seen[1]
    assert seen[0]["params"] == {"lr": "0.1", "layers": "3"}
    assert seen[0]["files"] == ["wandb/files/kept.txt"]
    assert len(seen[0]["points"]) == 4


def test_files_of_a_run_that_was_there_go_to_its_server(server: str, tmp_path: Path) -> None:
    """Files of an existing run are uploaded to its server, not to the process's own one."""
    for content in ("first", "second"):
        (tmp_path / content).mkdir()
        run_id = write(MlflowTarget(server), small("taken up", "one"), tmp_path / content)
    found = MlflowClient(server).list_artifacts(run_id, "wandb/files")
    assert [item.path for item in found] == ["wandb/files/kept.txt"]


def test_a_refused_param_costs_itself_alone(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused param is a loss, and the rest of its batch is logged."""
    target = MlflowTarget(server)
    info = small("refused", "one")
    writer = target.open(info, "backfill", target.find(info))
    new = writer._description._new_params

    def with_a_bad_one(info: RunInfo) -> list[Param]:
        return [*new(info), Param("not [a] name", "x")]

    monkeypatch.setattr(writer._description, "_new_params", with_a_bad_one)
    end(writer, info)
    writer.close()
    run = MlflowClient(server).get_run(writer.run_id)
    assert run.data.params == {"lr": "0.1", "layers": "3"}
    assert run.data.tags[identity.LOSSES] == '{"param_refused": 1}'
    assert (run.data.tags[identity.STATE], run.info.status) == ("complete", "FINISHED")


def test_a_position_waits_for_the_next_checkpoint_or_the_end(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position is not written soon after the last one, but the writer has it."""
    target, client = MlflowTarget(server), MlflowClient(server)
    info = small("positions", "one")
    writer = target.open(info, "backfill", target.find(info))

    def written() -> str | None:
        return client.get_run(writer.run_id).data.tags.get(identity.POSITION)

    writer.append(points("a", [1.0]))
    writer.checkpoint(Checkpoint("seg", 1))
    assert (writer.position, written()) == ({"seg": 1}, None)
    monkeypatch.setattr(run_progress, "POSITION_INTERVAL_S", 0.0)
    writer.append(points("a", [2.0], 1))
    writer.checkpoint(Checkpoint("seg", 2))
    assert written() == '{"seg": 2}'
    monkeypatch.setattr(run_progress, "POSITION_INTERVAL_S", time.monotonic())
    writer.append(points("a", [3.0], 2))
    writer.checkpoint(Checkpoint("seg", 3))
    assert written() == '{"seg": 2}'
    writer.finish(info, complete=False)
    writer.close()
    assert written() == '{"seg": 3}'
    assert len(client.get_metric_history(writer.run_id, "a")) == 3


def test_a_run_that_is_found_only_when_it_is_created(server: str) -> None:
    """A run that another process has created since the first look at the experiment is found when
    it is about to be created again."""
    ours, theirs = MlflowTarget(server), MlflowTarget(server)
    write(ours, small("met late", "one"))
    run_id = write(theirs, small("met late", "two"))
    assert write(ours, small("met late", "two")) == run_id
    found = {run.info.run_id for run in MlflowClient(server).search_runs(
        [MlflowClient(server).get_experiment_by_name("met late").experiment_id]
    )}  # fmt: skip
    assert len(found) == 2
