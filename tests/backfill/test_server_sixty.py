"""A project of sixty runs that covers every feature, from the loopback W&B server into MLflow."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support import sixty
from tests.support.environment import isolated
from tests.support.killing import forker
from tests.support.kills import kills
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import wait_until
from tests.support.sixty import PROJECT, Expected
from tests.support.stores import copy_store
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HISTORY = (
    "RunParquetHistory",
    "HistoryPage",
    "RunFullHistory",
    "RunHistoryKeys",
    "RunHistoryCount",
)
KILLS = kills(20)


@dataclass
class Sixty:
    """The server, what must arrive, and an MLflow (of before the backfill, to copy)."""

    server: WandbServer
    expected: dict[str, Expected]
    folder: Path
    before: Path

    def store(self, name: str) -> str:
        """URI of an MLflow as it was before the backfill; artifacts are below a folder of it."""
        return copy_store(self.before, self.folder / f"{name}.db")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Sixty]:
    folder = tmp_path_factory.mktemp("sixty")
    before = folder / "before.db"
    uri = copy_store(empty_store, before)
    with WandbServer(folder / "wandb") as server:
        (folder / "runs").mkdir()
        expected = sixty.build(server, folder / "runs", uri)
        expected["composer"] = _composer(server, uri)
        expected["ewm"] = _migrated_by_another_tool(server, uri)
        _make_holes(before, read_runs(uri)["holes"].run_id)
        yield Sixty(server, expected, folder, before)
        assert not server.executor.unknown, "fields that the server does not know"


def _composer(server: WandbServer, uri: str) -> Expected:
    """MosaicML Composer logs every tenth step into MLflow and says where in the W&B config."""
    client = MlflowClient(uri)
    experiment = client.create_experiment("composer")
    run = client.create_run(experiment, run_name="by composer")
    for step in range(0, 40, 10):
        client.log_metric(run.info.run_id, "m", step / 3, timestamp=1000 * step, step=step)
    client.set_terminated(run.info.run_id)
    rows = [{"_step": i, "_timestamp": 1.6e9 + i, "m": i / 3} for i in range(40)]
    config = {"mlflow_run_id": run.info.run_id, "mlflow_experiment_id": experiment}
    server.add_run(PROJECT, "composer", config=config, rows=rows)
    points = [(i / 3, 1000 * i if i % 10 == 0 else int((1.6e9 + i) * 1000), i) for i in range(40)]
    return Expected(metrics={"m": points}, action="repaired", verdict="partial")


def _migrated_by_another_tool(server: WandbServer, uri: str) -> Expected:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(PROJECT).experiment_id
    tags = {"wandb_run_id": "ewm", "wandb_migration_complete": "True"}
    run = client.create_run(experiment, tags=tags)
    client.log_metric(run.info.run_id, "m", 1.0)
    client.set_terminated(run.info.run_id)
    server.add_run(PROJECT, "ewm", rows=[{"_step": 0, "_timestamp": 1.6e9, "m": 1}])
    return Expected(metrics={"m": [(1.0, None, 0)]}, action="skipped", verdict="foreign")


def _make_holes(store: Path, run_id: str) -> None:
    """As if the replica had died on its way: points are missing and nothing says complete."""
    with sqlite3.connect(store) as db:
        db.execute("delete from metrics where run_uuid = ? and step between 10 and 29", (run_id,))
        db.execute(
            "update tags set value = 'live' where run_uuid = ? and key = 'mlflow.wandb.state'",
            (run_id,),
        )
        db.execute(
            "delete from tags where run_uuid = ? and key = 'mlflow.wandb.position'", (run_id,)
        )
    db.close()


def carry(project: Sixty, uri: str, where: Path, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    where.mkdir()
    monkeypatch.chdir(where)
    source = source_of(project.server, PROJECT)
    target = MlflowTarget(uri, TargetOptions(adopt_dual=True))
    return list(backfill(source, target, Selection()))


@pytest.fixture(scope="module")
def undisturbed(project: Sixty) -> tuple[dict[str, Outcome], dict[str, RunState]]:
    """Outcomes and MLflow after one backfill that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        uri = project.store("undisturbed")
        outcomes = carry(project, uri, project.folder / "undisturbed", patch)
        states = read_runs(uri, project.folder / "undisturbed" / "read")
    return {outcome.run.run_id: outcome for outcome in outcomes}, states


def test_sixty_runs_arrive_as_they_were_logged(
    project: Sixty, undisturbed: tuple[dict[str, Outcome], dict[str, RunState]]
) -> None:
    """Every run's verdict, status, params, tags, points, times, texts and files."""
    outcomes, states = undisturbed
    assert len(project.expected) == 60
    assert outcomes.keys() == project.expected.keys()
    for run_id, expected in project.expected.items():
        outcome = outcomes[run_id]
        found = (outcome.action, outcome.verdict)
        assert found == (expected.action, expected.verdict), (run_id, outcome.reason)
        state = _state_of(run_id, states, outcome)
        assert state.status == expected.status, run_id
        assert not expected.name or state.name == expected.name
        params = {key: state.params.get(key) for key in expected.params}
        assert params == expected.params, run_id
        assert expected.tags.items() <= state.tags.items(), run_id
        _check_points(run_id, state, expected)
        _check_files(run_id, state, expected, project.folder / "undisturbed" / "read")
    sweeps = {states[i].tags["mlflow.parentRunId"] for i in states if "loss" in states[i].metrics
              and not i.startswith("plain")}  # fmt: skip
    assert len(sweeps) == 1


def _state_of(run_id: str, states: dict[str, RunState], outcome: Outcome) -> RunState:
    if run_id in states:
        return states[run_id]
    return next(state for state in states.values() if state.run_id == outcome.mlflow_run_id)


def _check_points(run_id: str, state: RunState, expected: Expected) -> None:
    """All points that were logged and no others; a time is compared where the script chose it."""
    found = {key: points for key, points in state.metrics.items() if not key.startswith("system/")}
    assert found.keys() == expected.metrics.keys(), run_id
    for key, wanted in expected.metrics.items():
        assert [(v, s) for v, _, s in found[key]] == [(v, s) for v, _, s in wanted], (run_id, key)
        for (_, at, _), (_, logged_at, _) in zip(found[key], wanted, strict=True):
            assert logged_at is None or at == logged_at, (run_id, key)


def _check_files(run_id: str, state: RunState, expected: Expected, read: Path) -> None:
    for path, digest in expected.files.items():
        held = [name for name, sha in state.artifacts.items() if sha == digest]
        assert any(name.endswith(path) for name in held), (run_id, path)
    if run_id.startswith("rich"):
        assert any(key.startswith("system/cpu") for key in state.metrics), run_id
        log = read / state.run_id / "wandb" / "files" / "output.log"
        assert f"printed by {run_id}" in log.read_text()
        for media in ("images/", "wandb/files/media/html/", "wandb/files/media/table/"):
            assert any(name.startswith(media) for name in state.artifacts), (run_id, media)
        if run_id != "rich0":
            lineage = (read / state.run_id / "wandb" / "lineage.json").read_text()
            assert f"weights{int(run_id[-1]) - 1}" in lineage
    if expected.texts:
        lines = (read / state.run_id / "wandb" / "history.jsonl").read_text().splitlines()
        rows = {row.pop("_step"): row for row in map(json.loads, lines)}
        texts = {
            step: {key: value for key, value in row.items() if key == "note"}
            for step, row in rows.items()
            if "note" in row
        }
        assert texts == expected.texts, run_id
        assert sum("hist" in row for row in rows.values()) == 1


def test_a_second_backfill_reads_no_history(project: Sixty, tmp_path: Path) -> None:
    """Finished runs are known from the listing; only the one that still runs is looked at."""
    uri = f"sqlite:///{project.folder / 'undisturbed.db'}"
    with pytest.MonkeyPatch.context() as patch:
        before = len(project.server.requests)
        outcomes = carry(project, uri, tmp_path / "again", patch)
    assert {outcome.action for outcome in outcomes} == {"skipped"}
    (running,) = (outcome for outcome in outcomes if outcome.run.run_id == "running")
    assert running.reason == "still running, and nothing new"
    asked = project.server.requests[before:]
    history = {request.variables.get("run") for request in asked if request.operation in HISTORY}
    assert history == {"running"}


@pytest.mark.kills
def test_many_kills_leave_what_an_undisturbed_backfill_leaves(
    project: Sixty, undisturbed: tuple[dict[str, Outcome], dict[str, RunState]], tmp_path: Path
) -> None:
    """Killed (-9) at random requests and started again; no finished run's history is read twice."""
    uri = project.store("killed")
    where = project.folder / "killed"
    where.mkdir()
    env = isolated(
        tmp_path, WANDB_API_KEY=project.server.api_key,
        PYTHONPATH=os.environ.get("PYTHONPATH", ""), PYTHONWARNINGS="ignore",
    )  # fmt: skip
    line = f"backfill wandb+{project.server.url}/tester/{PROJECT} --to {uri} --adopt-dual --json"
    chance = random.Random(20)
    with forker(env, where, tmp_path / "errors.txt") as commands:
        for _ in range(KILLS):
            moment = _after_requests(project, chance.randint(2, 45))
            assert commands.run(line, moment) == -9
            _check_nothing_is_half_done(project, uri)
        complete = _complete(uri)
        before = len(project.server.requests)
        assert commands.run(line) == 0
    asked = project.server.requests[before:]
    history = {request.variables.get("run") for request in asked if request.operation in HISTORY}
    assert history.isdisjoint(complete)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        states = read_runs(uri, where / "read")
    _, expected = undisturbed
    assert len(states) == len(expected)
    assert _ids(states) == _ids(expected)
    for run_id in _ids(expected):
        assert _replica(states[run_id]) == _replica(expected[run_id]), run_id


def _after_requests(project: Sixty, count: int) -> Callable[[], None]:
    """Wait until the server got so many requests."""
    before = len(project.server.requests)
    return lambda: wait_until(lambda: len(project.server.requests) >= before + count, 240)


def _complete(uri: str) -> set[str]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as db:
        found = db.execute(
            "select i.value from tags i join tags s on i.run_uuid = s.run_uuid where "
            "i.key = 'wandb.run_id' and s.key = 'mlflow.wandb.state' and s.value = 'complete'"
        ).fetchall()
    db.close()
    return {run_id for (run_id,) in found}


def _check_nothing_is_half_done(project: Sixty, uri: str) -> None:
    """A run that says complete has every point."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as db:
        counts = dict(
            db.execute(
                "select i.value, (select count(*) from metrics m where m.run_uuid = i.run_uuid "
                "and m.key not like 'system/%') from tags i where i.key = 'wandb.run_id'"
            ).fetchall()
        )
    db.close()
    for run_id in _complete(uri):
        wanted = sum(map(len, project.expected[run_id].metrics.values()))
        assert counts[run_id] == wanted, f"{run_id} says complete"


def _ids(states: dict[str, RunState]) -> set[str]:
    return {key for key, state in states.items() if "wandb.run_id" in state.tags}


def _replica(state: RunState) -> dict[str, Any]:
    """What must not depend on kills: not the sweep's id, nor when a running run was claimed."""
    found = state.comparable()
    found["tags"] = {
        key: value
        for key, value in found["tags"].items()
        if key not in ("mlflow.parentRunId", "mlflow.wandb.claim")
    }
    return found
