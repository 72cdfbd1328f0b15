"""MLflow's calls in a script whose W&B run is replicated: MLflow's active run is the replica."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest

from tests.live.both_homes import differences, numbers, points
from tests.support.commands import mlflow_wandb
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import (
    free_port,
    mlflow_server,
    run_script,
    silent_server,
    started,
    wait_until,
)
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.usefixtures("patient"), pytest.mark.slow]


BOTH = """
import mlflow, mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog()
run = wandb.init(project="calls", id="both", config={"lr": 0.1})
assert mlflow.active_run().info.run_id == run.config["mlflow_run_id"]
run.log({"loss": 1.0})
mlflow.log_metric("acc", 0.5, step=70)
mlflow.log_metrics({"acc": 0.6, "f1": 0.25}, step=80)
run.log({"loss": 0.5})
mlflow.log_metric("acc", 0.7, step=90, synchronous=False).wait()
mlflow.log_params({"depth": 3, "api_key": "0123456789"})
mlflow.log_param("lr", "1e-1")
mlflow.set_tag("team", "vision")
mlflow.set_tag("mlflow.note.content", "words")
mlflow.log_text("hello", "notes/a.txt")
mlflow.log_dict({"a": 1}, "b.json")
mlflow.end_run("FAILED")
assert mlflow.active_run() is None
run.finish()
"""


def test_what_mlflows_calls_log_is_in_both_homes_once(
    online: dict[str, str], wandb_server: WandbServer, tmp_path: Path, empty_store: Path
) -> None:
    """MLflow has each point with its own step, W&B in rows of its own with `mlflow_step`; `verify`
    finds the replica equal, a backfill skips it, and one into another MLflow makes the same run."""
    done = run_script(BOTH, online, tmp_path / "work")
    assert "the param lr keeps the value of the W&B config" in done.stderr
    state = read_runs(online["MLFLOW_TRACKING_URI"], tmp_path / "there")["both"]
    assert state.status == "FINISHED"
    assert points(state) == {
        "loss": [(0, 1.0), (1, 0.5)],
        "acc": [(70, 0.5), (80, 0.6), (90, 0.7)],
        "f1": [(80, 0.25)],
    }
    assert state.params == {"lr": "0.1", "depth": "3", "api_key": "0123456789"}
    assert (state.tags["team"], state.tags["mlflow.note.content"]) == ("vision", "words")
    assert not {"wandb.tags", "wandb.tag.team:vision"} & state.tags.keys()
    ours = {path for path in state.artifacts if path.startswith("wandb/")}
    assert state.artifacts.keys() - ours == {"notes/a.txt", "b.json"}
    assert not [path for path in ours if "artifacts" in path]
    run = wandb_server.run("calls/both")
    assert numbers(wandb_server, "calls/both") == [
        {"loss": 1.0},
        {"loss": 0.5},
        {"acc": 0.5, "mlflow_step": 70},
        {"acc": 0.6, "f1": 0.25, "mlflow_step": 80},
        {"acc": 0.7, "mlflow_step": 90},
    ]
    assert (run.values["depth"], run.values["lr"], run.notes) == (3, 0.1, "words")
    assert "api_key" not in run.values
    assert run.tags == ["team:vision"]
    assert {"artifacts/notes/a.txt", "artifacts/b.json"} <= run.files.keys()
    (folder,) = (tmp_path / "client" / "dir" / "wandb").glob("run-*-both")
    assert differences(folder, online["MLFLOW_TRACKING_URI"]) == ()
    command = ("backfill", str(folder), "--to")
    done = mlflow_wandb(*command, online["MLFLOW_TRACKING_URI"], env=online, cwd=tmp_path)
    assert "1 skipped as dual-written" in done.stdout, done.stdout + done.stderr
    other = copy_store(empty_store, tmp_path / "other.db")
    done = mlflow_wandb(*command, other, env=online, cwd=tmp_path)
    assert "1 migrated" in done.stdout, done.stdout + done.stderr
    again = read_runs(other, tmp_path / "again")["both"]
    assert again.metrics == state.metrics
    assert (again.tags["team"], again.params) == ("vision", {"lr": "0.1", "depth": "3"})
    kept = {path: digest for path, digest in state.artifacts.items() if path not in ours}
    assert kept.items() <= again.artifacts.items()
    assert not [path for path in again.artifacts if path.startswith("wandb/files/artifacts")]


STEPS = """
import mlflow, mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog()
with wandb.init(project="calls", id="steps") as run:
    mlflow.log_metric("early", 1.0, step=5)
    for step in range(3):
        run.log({"loss": float(step)}, step=step)
        mlflow.log_metric("acc", step / 10, step=step * 100)
    run.log({"part": 1}, commit=False)
    mlflow.log_metric("acc", 0.9, step=900)
"""


def test_no_row_of_a_script_that_numbers_its_steps_is_lost(
    online: dict[str, str], wandb_server: WandbServer, tmp_path: Path
) -> None:
    """Rows of MLflow's calls would take the next steps: they follow when the run ends."""
    run_script(STEPS, online, tmp_path / "work")
    assert numbers(wandb_server, "calls/steps") == [
        {"loss": 0.0},
        {"loss": 1.0},
        {"loss": 2.0, "part": 1},
        {"early": 1.0, "mlflow_step": 5},
        {"acc": 0.0, "mlflow_step": 0},
        {"acc": 0.1, "mlflow_step": 100},
        {"acc": 0.2, "mlflow_step": 200},
        {"acc": 0.9, "mlflow_step": 900},
    ]
    state = read_runs(online["MLFLOW_TRACKING_URI"])["steps"]
    assert points(state) == {
        "early": [(5, 1.0)], "loss": [(0, 0.0), (1, 1.0), (2, 2.0)], "part": [(2, 1.0)],
        "acc": [(0, 0.0), (100, 0.1), (200, 0.2), (900, 0.9)],
    }  # fmt: skip


TWICE = """
import math, sys
import mlflow, mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog()
params = {"lr": 0.1, "layers": [1, 2], "none": None}
with wandb.init(project="calls", id="twice", config=params) as run:
    mlflow.log_params(params)
    for step, loss in enumerate([3.0, 3.0, 1.0, math.nan]):
        by_wandb = lambda: run.log({"loss": loss, "only_wandb": step})
        by_mlflow = lambda: mlflow.log_metrics({"loss": loss, "only_mlflow": step}, step=step * 10)
        for log in (by_wandb, by_mlflow) if sys.argv[1:] == [] else (by_mlflow, by_wandb):
            log()
    run.log({"loss": 9.0})
    mlflow.log_metric("loss", 8.0, step=70)
"""


@pytest.mark.parametrize("first", ["wandb", "mlflow"])
def test_a_number_that_both_apis_log_is_in_each_home_once(
    online: dict[str, str],
    wandb_server: WandbServer,
    tmp_path: Path,
    empty_store: Path,
    first: str,
) -> None:
    """As with `report_to=["wandb", "mlflow"]` of Hugging Face, in either order: whoever comes first
    brings it to both homes. Numbers that differ are both logged, and params are those of W&B."""
    script = TWICE if first == "wandb" else TWICE.replace("== []", "!= []")
    run_script(script, online, tmp_path / "work")
    logged = numbers(wandb_server, "calls/twice")
    losses = [row["loss"] for row in logged if "loss" in row]
    assert [str(loss).lower() for loss in losses] == ["3", "3", "1", "nan", "9", "8"]
    assert [row["only_mlflow"] for row in logged if "only_mlflow" in row] == [0, 1, 2, 3]
    state = read_runs(online["MLFLOW_TRACKING_URI"])["twice"]
    values = [value for _, value in state.points("loss")]
    assert sorted(map(str, values)) == ["1.0", "3.0", "3.0", "8.0", "9.0", "nan"]
    assert state.points("only_mlflow") == [(0, 0.0), (10, 1.0), (20, 2.0), (30, 3.0)]
    assert state.params == {"lr": "0.1", "layers": "[1, 2]", "none": "None"}
    assert state.tags["mlflow.wandb.losses"] == "{}"
    assert "mlflow_points" not in wandb_server.run("calls/twice").summary
    (folder,) = (tmp_path / "client" / "dir" / "wandb").glob("run-*-twice")
    uri = online["MLFLOW_TRACKING_URI"]
    assert differences(folder, uri) == ()
    other = copy_store(empty_store, tmp_path / "other.db")
    mlflow_wandb("backfill", str(folder), "--to", other, env=online, cwd=tmp_path)
    assert read_runs(other)["twice"].metrics == state.metrics


AUTOLOG = """
import sys
import mlflow, mlflow_wandb_plugin, wandb
from sklearn.linear_model import LogisticRegression
mlflow_wandb_plugin.autolog()
run = wandb.init(project="calls", id="autolog")
mlflow.autolog(log_input_examples=False)
model = LogisticRegression(C=2.0).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
mlflow.autolog(disable=True)
info = mlflow.sklearn.log_model(model, name="mine", serialization_format="cloudpickle")
assert mlflow.get_logged_model(info.model_id).source_run_id == run.config["mlflow_run_id"]
with mlflow.start_run(nested=True) as child:
    mlflow.log_metric("of_child", 1.0)
assert mlflow.active_run().info.run_id == run.config["mlflow_run_id"]
assert child.data.tags["mlflow.parentRunId"] == run.config["mlflow_run_id"]
sys.exit(3)
"""


def test_autolog_and_log_model_land_in_the_replica(
    online: dict[str, str], wandb_server: WandbServer, tmp_path: Path
) -> None:
    """Params and metrics of `mlflow.autolog` go to W&B; a nested run stays MLflow's, and named; the
    replica ends once, as the W&B run does: with the script's exit code."""
    done = run_script(AUTOLOG, online, tmp_path / "work", timeout=280, check=False)
    assert done.returncode == 3, done.stderr
    states = read_runs(online["MLFLOW_TRACKING_URI"], tmp_path / "there")
    state = states.pop("autolog")
    ((child_id, child),) = states.items()
    assert (state.status, state.tags["wandb.exit_code"]) == ("FAILED", "3")
    assert (child.status, points(child)) == ("FINISHED", {"of_child": [(0, 1.0)]})
    assert state.params["C"] == "2.0"
    run = wandb_server.run("calls/autolog")
    assert (run.state, run.values["C"]) == ("failed", 2)
    assert run.values["mlflow_runs_beside"] == [child_id]
    logged = [row for row in numbers(wandb_server, "calls/autolog") if "training_score" in row]
    assert [row["mlflow_step"] for row in logged] == [0] * len(state.metrics["training_score"])
    logged_models = {
        one.collection.name
        for one in run.logged_artifacts
        if json.loads(one.metadata or "{}").get("mlflow_status") == "READY"
    }
    assert logged_models == {"model", "mine"}
    assert not [path for path in state.artifacts if path.startswith("wandb/artifacts")]


TWO_RUNS = """
import mlflow, mlflow_wandb_plugin, threading, wandb
mlflow_wandb_plugin.autolog()
first = wandb.init(project="calls", id="first")
second = wandb.init(project="calls", id="second", reinit="create_new")
assert mlflow.active_run().info.run_id == first.config["mlflow_run_id"]
mlflow.log_metric("m", 1.0)
first.finish()
assert mlflow.active_run() is None
second.finish()
with wandb.init(project="calls", id="third") as third:
    mlflow.log_metric("m", 3.0)
mine = mlflow.start_run()
with wandb.init(project="calls", id="fourth") as fourth:
    assert mlflow.active_run().info.run_id == mine.info.run_id
    mlflow.log_metric("m", 4.0)
assert mlflow.active_run().info.run_id == mine.info.run_id
mlflow.end_run()
try:
    with wandb.init(project="calls", id="fifth"):
        raise LookupError("mine")
except LookupError:
    assert mlflow.active_run() is None
"""


def test_several_runs_of_one_process(env: dict[str, str], tmp_path: Path) -> None:
    """The active run is that of the W&B run whose `wandb.log` it is; an MLflow run that the script
    has started before stays, with a warning; an exception ends the replica as failed."""
    env["MLFLOW_WANDB_ACTIVE"] = "1"
    done = run_script(TWO_RUNS, env, tmp_path / "work")
    assert "stays; the replica is not MLflow's active run" in done.stderr
    states = read_runs(env["MLFLOW_TRACKING_URI"])
    named = {key: states.pop(key) for key in ("first", "second", "third", "fourth", "fifth")}
    assert {key: points(state) for key, state in named.items()} == {
        "first": {"m": [(0, 1.0)]}, "second": {}, "third": {"m": [(0, 3.0)]}, "fourth": {},
        "fifth": {},
    }  # fmt: skip
    assert [state.status for state in named.values()] == ["FINISHED"] * 4 + ["FAILED"]
    (own,) = states.values()
    assert (own.status, points(own)) == ("FINISHED", {"m": [(0, 4.0)]})


LATE = """
import os, time
import mlflow, mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog(
    mlflow_active=True, tracking_uri="http://127.0.0.1:PORT", init_timeout=1, finish_timeout=SECONDS
)
run = wandb.init(project="calls", id="late")
run.log({"loss": 1.0})
with mlflow.start_run(tags={"team": "vision"}) as active:
    mlflow.log_metric("acc", 0.5, step=70)
    mlflow.log_params({"depth": 3})
    mlflow.log_text("hello", "notes/a.txt")
    assert mlflow.get_run(active.info.run_id).data.metrics == {"acc": 0.5}
open("waits", "w").close()
while SECONDS and not os.path.exists("answers"):
    time.sleep(0.05)
run.finish()
"""


def check_late(state: RunState) -> None:
    """The one run has what both APIs have logged."""
    assert (state.status, points(state)) == ("FINISHED", {"loss": [(0, 1.0)], "acc": [(70, 0.5)]})
    assert (state.params, state.tags["team"]) == ({"depth": "3"}, "vision")
    assert "notes/a.txt" in state.artifacts
    assert not [path for path in state.artifacts if path.startswith("wandb/files/artifacts")]


def test_calls_wait_for_an_mlflow_that_does_not_answer(
    env: dict[str, str], tmp_path: Path, empty_store: Path
) -> None:
    """Training goes on with a warning; a backfill brings what MLflow's calls logged, with steps
    and files, into the one run."""
    with silent_server() as port:
        script = LATE.replace("PORT", str(port)).replace("SECONDS", "0")
        done = run_script(script, env | {"MLFLOW_WANDB_LINGER": "0"}, tmp_path / "work")
    assert "what MLflow's calls log goes to W&B" in done.stderr
    other = copy_store(empty_store, tmp_path / "other.db")
    (folder,) = Path(env["WANDB_DIR"], "wandb").glob("offline-run-*-late")
    done = mlflow_wandb("backfill", str(folder), "--to", other, env=env, cwd=tmp_path)
    check_late(read_runs(other, tmp_path / "there")["late"])


def delivered(url: str, folder: Path) -> RunState:
    """The one run of a store, once MLflow has all of it; the script may have ended before."""

    def complete() -> bool:
        return [run.tags.get("mlflow.wandb.state") for run in read_runs(url).values()] == [
            "complete"
        ]

    wait_until(complete, 150, "the run is delivered")
    (state,) = read_runs(url, folder).values()
    return state


def test_calls_are_delivered_when_mlflow_answers(env: dict[str, str], tmp_path: Path) -> None:
    """A server that starts while the script trains gets all of it, in one run."""
    port, work = free_port(), tmp_path / "work"
    script = work / "late.py"
    script.write_text(LATE.replace("PORT", str(port)).replace("SECONDS", "120"))
    with started([sys.executable, str(script)], env, work) as process:
        wait_until((work / "waits").exists, 60, "the script has logged")
        with mlflow_server(tmp_path / "server", port) as url:
            (work / "answers").touch()
            _, err = process.communicate(timeout=150)
            assert process.returncode == 0, err
            state = delivered(url, tmp_path / "there")
    check_late(state)


AWAY = """
import os, time
import mlflow, mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog(
    mlflow_active=True, tracking_uri="http://127.0.0.1:PORT", init_timeout=90, finish_timeout=120
)
def reach(name):
    open(f"reached-{name}", "w").close()
    while not os.path.exists(f"go-{name}"):
        time.sleep(0.05)
run = wandb.init(project="calls", id="away")
replica = mlflow.active_run().info.run_id
run.log({"loss": 1.0})
mlflow.log_metric("acc", 0.5, step=70)
mlflow.log_text("first", "notes/first.txt")
reach("away")
run.log({"loss": 0.5, "same": 2.0})
mlflow.log_metrics({"acc": 0.6, "same": 2.0, "f1": 0.25}, step=80)
mlflow.log_params({"depth": 3})
mlflow.set_tag("team", "vision")
mlflow.log_text("second", "notes/second.txt")
assert mlflow.active_run().info.run_id == replica
assert mlflow.get_run(replica).data.metrics["acc"] == 0.6
reach("back")
mlflow.log_metric("acc", 0.7, step=90)
run.finish()
assert "acc" in mlflow.get_run(replica).data.metrics
"""


def test_calls_go_on_while_mlflow_is_away(env: dict[str, str], tmp_path: Path) -> None:
    """They do not raise when the server ends within the run, and it gets all of it, once, when it
    is back; after the run, MLflow itself answers again."""
    port, work = free_port(), tmp_path / "work"
    script = work / "away.py"
    script.write_text(AWAY.replace("PORT", str(port)))
    with contextlib.ExitStack() as stack:
        with mlflow_server(tmp_path / "server", port):
            process = stack.enter_context(started([sys.executable, str(script)], env, work))
            wait_until((work / "reached-away").exists, 150, "the script has logged")
        (work / "go-away").touch()
        wait_until((work / "reached-back").exists, 150, "the script has logged without MLflow")
        with mlflow_server(tmp_path / "server", port) as url:
            (work / "go-back").touch()
            _, err = process.communicate(timeout=150)
            assert process.returncode == 0, err
            state = delivered(url, tmp_path / "there")
    assert err.count("MLflow does not answer (") == 1
    assert (state.status, points(state)) == (
        "FINISHED",
        {
            "loss": [(0, 1.0), (1, 0.5)],
            "acc": [(70, 0.5), (80, 0.6), (90, 0.7)],
            "f1": [(80, 0.25)],
            "same": [(1, 2.0)],
        },
    )
    assert (state.params, state.tags["team"]) == ({"depth": "3"}, "vision")
    assert {"notes/first.txt", "notes/second.txt"} <= state.artifacts.keys()


@pytest.mark.parametrize("way", ["dual_write", "autolog"])
def test_a_tracking_server_and_the_other_ways_in(
    env: dict[str, str], tmp_path: Path, server: str, way: str
) -> None:
    """An argument of `dual_write` or `autolog`, with MLflow behind a server whose artifacts it
    serves itself."""
    body = """
    mlflow.log_metric("m", 1.0, step=4)
    mlflow.log_text("words", "texts/one.txt")
    assert mlflow.artifacts.load_text(mlflow.get_artifact_uri("texts/one.txt")) == "words"
"""
    arguments = f'mlflow_active=True, tracking_uri="{server}"'
    ways = {
        "dual_write": f"""
@mlflow_wandb_plugin.dual_write(project="calls-{way}", id="{way}", {arguments})
def train():
{body}
train()""",
        "autolog": f"""
mlflow_wandb_plugin.autolog({arguments})
with wandb.init(project="calls-{way}", id="{way}"):
{body}""",
    }
    script = "import mlflow, mlflow_wandb_plugin, wandb\n" + ways[way]
    run_script(script, env, tmp_path / "work")
    state = read_runs(server, tmp_path / "files", only=way)[way]
    assert (state.status, points(state)) == ("FINISHED", {"m": [(4, 1.0)]})
    assert "texts/one.txt" in state.artifacts


BESIDE = """
import mlflow, wandb
run = wandb.init(project="beside", id="b", config={"lr": 0.1})
with mlflow.start_run(run_name="mine") as own:
    for step in range(4):
        run.log({"loss": float(step), "more": step})
        mlflow.log_metric("loss", float(step), step=step)
    with mlflow.start_run(nested=True):
        mlflow.log_metric("inner", 1.0)
run.finish()
with mlflow.start_run(run_name="later"):
    pass
"""


def test_runs_side_by_side_name_each_other_and_are_not_doubled(
    online: dict[str, str], wandb_server: WandbServer, tmp_path: Path
) -> None:
    """Without `mlflow_active`, nor this package in the script: a backfill of the W&B run completes
    the MLflow run, and one of the MLflow run leaves the W&B run alone."""
    run_script(BESIDE, online, tmp_path / "work")
    states = {state.name: state for state in read_runs(online["MLFLOW_TRACKING_URI"]).values()}
    named = wandb_server.run("beside/b").values["mlflow_runs_beside"]
    tags = {
        "wandb.beside.run_id": "b",
        "wandb.beside.project": "beside",
        "wandb.beside.entity": "tester",
    }
    assert tags.items() <= states["mine"].tags.items()
    assert (named[0], len(named)) == (states["mine"].run_id, 2)
    assert not [key for key in states["later"].tags if key.startswith("wandb.")]
    uri = online["MLFLOW_TRACKING_URI"]
    to = ("--to", "wandb://tester/beside", "--plan", "--json")
    done = mlflow_wandb("backfill", uri, *to, env=online, cwd=tmp_path)
    reasons = [run["reason"] for run in json.loads(done.stdout)["runs"]]
    assert "logged beside the W&B run b: each of the two names the other" in reasons
    (folder,) = (tmp_path / "client" / "dir" / "wandb").glob("run-*-b")
    for outcome in ("1 repaired", "1 skipped as dual-written"):
        done = mlflow_wandb("backfill", str(folder), "--to", uri, env=online, cwd=tmp_path)
        assert outcome in done.stdout, done.stdout + done.stderr
    found = read_runs(uri)
    assert found["b"].run_id == states["mine"].run_id
    assert points(found["b"]) == {
        "loss": [(step, float(step)) for step in range(4)],
        "more": [(step, float(step)) for step in range(4)],
    }
    assert (found["b"].name, len(found)) == ("mine", 3)
