"""Runs that go to the other system and back are as they were."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from tests.support import sixty
from tests.support.commands import mlflow_wandb
from tests.support.environment import isolated
from tests.support.killing import forker
from tests.support.kills import kills
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import wait_until
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Worker

PROGRAM = Path(__file__).parents[1] / "store" / "program.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOT_OF_A_MODEL = ("mlflow.wandb.model_id", "mlflow.modelVersions")
KILLS = kills(20)
KILLED_RUNS = 30
"""Enough that they are never all complete before the last kill."""
LONG_NOTES = "a long note " * 2000

LOG_DESCRIBED = """
import wandb
with wandb.init(project="sixty", id="described", notes={notes!r}) as run:
    run.define_metric("epoch")
    run.define_metric("val/*", step_metric="epoch", summary="min")
    for i in range(5):
        run.log({{"epoch": i, "val/loss": abs(i - 2), "last": i}})
    run.summary["alone"] = 4
with wandb.init(project="sixty", id="no-rows") as run:
    run.summary["alone"] = 0.5
"""


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[WandbServer, WandbServer]]:
    with WandbServer(folder / "one") as one, WandbServer(folder / "other") as other:
        other.api_key = "f" * 40
        yield one, other
        for server in (one, other):
            assert not server.executor.unknown, "fields that the server does not know"


def keys(folder: Path, source: WandbServer, target: WandbServer) -> dict[str, str]:
    """An environment whose own key is for the source alone."""
    return isolated(
        folder, WANDB_MODE="online", WANDB_API_KEY=source.api_key, WANDB_BASE_URL=source.url,
        MLFLOW_WANDB_TARGET_API_KEY=target.api_key, PYTHONWARNINGS="ignore",
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
    )  # fmt: skip


def backfilled(*arguments: str, env: dict[str, str], cwd: Path) -> list[str]:
    """Run a backfill that succeeds; what it did with each run."""
    done = mlflow_wandb("backfill", *arguments, "--json", env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted({run["action"] for run in json.loads(done.stdout)["runs"]})


def verified(*arguments: str, env: dict[str, str], cwd: Path) -> set[str]:
    done = mlflow_wandb("verify", *arguments, "--json", env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return {run["result"] for run in json.loads(done.stdout)}


def definitions(server: WandbServer, entity: str, project: str) -> dict[str, Any]:
    """How each run's metrics are shown."""
    runs = project_of(server, entity, project).runs
    return {
        name: run.config.get("_wandb", {}).get("value", {}).get("m") for name, run in runs.items()
    }


def test_a_project_of_wandb_comes_back_from_mlflow_as_it_was(tmp_path: Path) -> None:
    """Rows, config, summary, files, artifacts in order, what runs used, and shown metrics."""
    with two_servers(tmp_path) as (one, other):
        sixty.build(one, tmp_path / "build", f"sqlite:///{tmp_path / 'dual.db'}")
        with Worker(one, tmp_path / "described") as worker:
            worker.call(LOG_DESCRIBED.format(notes=LONG_NOTES), timeout=120)
        env = keys(tmp_path / "copy", one, other)
        store, project = f"sqlite:///{tmp_path / 'store.db'}", f"wandb://tester/{sixty.PROJECT}"
        there = f"wandb+{other.url}/bob/copy"
        assert backfilled(project, "--to", store, env=env, cwd=tmp_path) == ["migrated"]
        assert verified(project, "--to", store, env=env, cwd=tmp_path) == {"equal"}
        assert backfilled(store, "--to", there, env=env, cwd=tmp_path) == ["migrated"]
        wanted = project_state(project_of(one, "tester", sixty.PROJECT))
        found = project_state(project_of(other, "bob", "copy"))
        assert len(wanted) == len(found) > 58
        assert found["described"]["notes"] == LONG_NOTES
        assert differing(found, wanted) == []
        shown = definitions(one, "tester", sixty.PROJECT)
        assert shown["described"]
        assert definitions(other, "bob", "copy")["described"] == shown["described"]
        assert verified(store, "--to", there, env=env, cwd=tmp_path) == {"equal"}


def test_runs_that_were_mirrored_live_come_back_as_they_were(tmp_path: Path) -> None:
    """What the live mirror wrote returns by the same rules; W&B keeps a run that was deleted."""
    with two_servers(tmp_path) as (server, _):
        here = keys(tmp_path / "copy", server, server) | {"MPLBACKEND": "agg"}
        env = here | {"WANDB_ENTITY": "bob"}
        store, back = f"sqlite:///{tmp_path / 'one.db'}", f"sqlite:///{tmp_path / 'two.db'}"
        program = [sys.executable, str(PROGRAM), f"wandb+{store}"]
        subprocess.run(program, env=env, cwd=tmp_path, check=True, timeout=200, capture_output=True)
        assert mlflow_wandb("sync", env=env, cwd=tmp_path).returncode == 0
        for entity, project in list(server.store.projects):
            there = f"wandb+{server.url}/{entity}/{project}"
            assert backfilled(there, "--to", back, env=env, cwd=tmp_path) == ["migrated"]
        wanted = seen(read_runs(store, tmp_path / "down one"), store)
        found = seen(read_runs(back, tmp_path / "down two"), back)
        kept = {key: run for key, run in found.items() if run["name"] != "deleted"}
        assert len(kept) == len(found) - 1 == len(wanted)
        assert differing(kept, wanted) == []


def killed(
    arguments: str, requests: Callable[[], int], env: dict[str, str], folder: Path, seed: int
) -> None:
    """Run a command, killed `KILLS` times after some requests, and then to its end."""
    chance = random.Random(seed)
    with forker(env, folder, folder / "errors.txt") as commands:
        for number in range(KILLS):
            wanted = requests() + chance.randint(1, 12)

            def reached(wanted: int = wanted) -> bool:
                return requests() >= wanted

            code = commands.run(arguments, lambda: wait_until(reached, 240))
            assert code == -9, number
        assert commands.run(arguments) == 0


@pytest.mark.kills
def test_a_round_trip_that_is_killed_many_times_each_way_is_equal(tmp_path: Path) -> None:
    """From W&B to MLflow and back, each command killed at random requests to a W&B server."""
    with two_servers(tmp_path) as (one, other):
        for run in range(KILLED_RUNS):
            one.add_run(
                "killed", f"run-{run}", display_name=f"name {run}", config={"lr": run / 7},
                rows=[{"_step": 3 * i, "_timestamp": 1.7e9 + i, "loss": i / (run + 1), "t": f"{i}"}
                      for i in range(40)],
                summary={"loss": 39 / (run + 1), "t": "39", "alone": run},
                files={"saved.bin": bytes([run]) * 1000}, tags=["x"], group=f"g{run % 2}",
            )  # fmt: skip
        env = keys(tmp_path / "copy", one, other)
        store, there = f"sqlite:///{tmp_path / 'store.db'}", f"wandb+{other.url}/bob/copy"
        away = f"backfill wandb://tester/killed --to {store} --json"
        killed(away, lambda: len(one.requests), env, tmp_path, 5)
        killed(
            f"backfill {store} --to {there} --json", lambda: len(other.requests), env, tmp_path, 6
        )
        wanted = project_state(project_of(one, "tester", "killed"))
        assert differing(project_state(project_of(other, "bob", "copy")), wanted) == []


def odd_runs(uri: str) -> None:
    """Runs with names, texts and times that W&B has no form for, or uses itself."""
    client = MlflowClient(uri)
    experiment = client.create_experiment("odd: names/and #more")
    run = client.create_run(experiment, start_time=1_234_567_890_123, run_name="n" * 200)
    texts = {
        "float": "1.0", "negative": "-0.0", "int": "1", "text": "007", "t": "True",
        "large": "1" * 30, "none": "None", "mlflow": "mine", "mlflow_run_id": "a param",
        "mlflow_parent_run_id": "0" * 32, "a.b": "0.10", "empty": "", "small": "1e-05",
    }  # fmt: skip
    metrics = [
        Metric(key, 0.5 + step, 1_001 + step, step * 7 % 5)
        for key in ("_step", "mlflow_step", "_timestamp", "x.y/z")
        for step in range(5)
    ]
    metrics += [
        Metric("odd", value, 1_700_000_000_001 + n, 3)
        for n, value in enumerate((float("nan"), float("inf"), -float("inf"), 2.0**60))
    ]
    tags = [RunTag("empty", ""), RunTag("long", "ä" * 3000), RunTag("mlflow.source.type", "JOB")]
    client.log_batch(run.info.run_id, metrics, [Param(*item) for item in texts.items()], tags)
    client.log_text(run.info.run_id, "text", "deep/er/file name.txt")
    client.set_terminated(run.info.run_id, "KILLED", end_time=1_234_567_899_999)


def seen(runs: dict[str, RunState], uri: str) -> dict[str, dict[str, Any]]:
    """What a user sees of runs: without the tags of this package, and each run's parent by the id
    under which it was created."""
    client = MlflowClient(uri)
    created = {state.run_id: key for key, state in runs.items()}
    shown = {}
    for key, state in runs.items():
        run = client.get_run(state.run_id)
        tags = {
            k: v for k, v in state.tags.items() if not k.startswith(("wandb.", "mlflow.wandb."))
        }
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = created[tags["mlflow.parentRunId"]]
        shown[key] = state.comparable() | {
            "tags": tags,
            "experiment": client.get_experiment(run.info.experiment_id).name,
            "inputs": sorted(str(given.to_dictionary()) for given in run.inputs.dataset_inputs),
            "models": logged_models(client, run),
        }
    return shown


def logged_models(client: MlflowClient, run: Run) -> list[Any]:
    """The logged models of a run, with the digests of their files, by their first id."""
    steps: dict[str, list[int]] = {}
    for output in run.outputs.model_outputs:
        steps.setdefault(output.model_id, []).append(output.step)
    found = []
    condition = f"source_run_id = '{run.info.run_id}'"
    for model in client.search_logged_models([run.info.experiment_id], condition):
        folder = Path(model.artifact_location.removeprefix("file://"))
        files = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            # MLflow writes the other file when a model is loaded, and not through a store.
            if path.is_file() and path.name != "registered_model_meta"
        }
        tags = {key: value for key, value in model.tags.items() if key not in NOT_OF_A_MODEL}
        first_id = model.tags.get("mlflow.wandb.model_id", model.model_id)
        described = model.name, str(model.status), model.model_type, model.params, tags
        found.append((first_id, *described, steps[model.model_id], files))
    return sorted(found, key=str)


def test_runs_of_mlflow_come_back_from_wandb_as_they_were(tmp_path: Path) -> None:
    """Each run and logged model, value by value; once there, they are skipped and equal."""
    with two_servers(tmp_path) as (server, other):
        env = keys(tmp_path / "copy", server, server) | {"MPLBACKEND": "agg"}
        store, back = f"sqlite:///{tmp_path / 'one.db'}", f"sqlite:///{tmp_path / 'two.db'}"
        program = [sys.executable, str(PROGRAM), store]
        subprocess.run(program, env=env, cwd=tmp_path, check=True, timeout=200, capture_output=True)
        odd_runs(store)
        there = f"wandb+{server.url}/bob/copy"
        assert backfilled(store, "--to", there, env=env, cwd=tmp_path) == ["migrated"]
        assert backfilled(there, "--to", back, env=env, cwd=tmp_path) == ["migrated"]
        wanted = seen(read_runs(store, tmp_path / "down one"), store)
        found = seen(read_runs(back, tmp_path / "down two"), back)
        assert len(wanted) == len(found) > 10
        assert differing(found, wanted) == []
        assert verified(there, "--to", back, env=env, cwd=tmp_path) == {"equal"}
        assert backfilled(there, "--to", back, env=env, cwd=tmp_path) == ["skipped"]
        # And there again: W&B's other project has what the first one has.
        again = f"wandb+{server.url}/bob/again"
        assert backfilled(back, "--to", again, env=env, cwd=tmp_path) == ["migrated"]
        once = project_state(project_of(server, "bob", "copy"))
        assert once.keys() == project_state(project_of(server, "bob", "again")).keys()
        # Nor does a copy to another server lose what was MLflow's.
        env = keys(tmp_path / "moved", server, other)
        moved = f"wandb+{other.url}/bob/copy"
        assert backfilled(there, "--to", moved, env=env, cwd=tmp_path) == ["migrated"]
        assert differing(project_state(project_of(other, "bob", "copy")), once) == []


@pytest.mark.kills
def test_a_round_trip_from_mlflow_that_is_killed_many_times_each_way_is_equal(
    tmp_path: Path,
) -> None:
    """From MLflow to W&B and back, each command killed at random requests to the W&B server."""
    store, back = f"sqlite:///{tmp_path / 'one.db'}", f"sqlite:///{tmp_path / 'two.db'}"
    client = MlflowClient(store)
    experiment = client.create_experiment("killed", artifact_location=str(tmp_path / "files"))
    parent = ""
    for number in range(KILLED_RUNS):
        tags = {"mlflow.parentRunId": parent} if number % 3 else {}
        run = client.create_run(experiment, 1_000 + number, tags, f"run {number}").info.run_id
        parent = parent if number % 3 else run
        metrics = [Metric("m", step / 7, 2_000 + step, step % 9) for step in range(50)]
        client.log_batch(run, metrics, [Param("p", f"{number}.0")], [RunTag("t", "")])
        client.log_text(run, f"text {number}", "deep/text.txt")
        client.set_terminated(run, "FAILED" if number % 2 else "FINISHED", 9_000 + number)
    with two_servers(tmp_path) as (server, _):
        env = keys(tmp_path / "copy", server, server)
        there = f"wandb+{server.url}/bob/killed"

        def asked() -> int:
            return len(server.requests)

        killed(f"backfill {store} --to {there} --follow-links --json", asked, env, tmp_path, 7)
        killed(f"backfill {there} --to {back} --json", asked, env, tmp_path, 8)
    wanted = seen(read_runs(store, tmp_path / "down one"), store)
    assert differing(seen(read_runs(back, tmp_path / "down two"), back), wanted) == []
