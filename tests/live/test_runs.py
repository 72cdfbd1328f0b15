"""Runs as the SDK offers them: several, resumed, forked, failed, never finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlflow_wandb_plugin import backfill
from tests.support import core_says
from tests.support.commands import journals, wandb_folder
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script, wait_until

pytestmark = pytest.mark.usefixtures("patient")


def test_several_runs_in_one_process(env: dict[str, str], tmp_path: Path) -> None:
    """One after another, side by side from threads, failed and fine: each is a run of its own."""
    run_script(
        """
import threading
import mlflow_wandb_plugin.wandb as wandb
for number in range(2):
    with wandb.init(project="p", id=f"turn{number}") as run:
        for step in range(3):
            run.log({"m": number * 10 + step})
runs = [wandb.init(project="p", id=f"side{i}", reinit="create_new") for i in range(3)]
def work(number):
    for step in range(50):
        runs[number].log({"m": number * 1000 + step, f"only{number}": 1})
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for number, run in enumerate(runs):
    run.finish(exit_code=(0, 3, None)[number])
try:
    with wandb.init(project="p", id="raised") as run:
        run.log({"m": 1})
        raise ValueError("no")
except ValueError:
    pass
with wandb.init(project="other", id="elsewhere") as run:
    run.log({"m": 2})
""",
        env,
        tmp_path / "work",
    )
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    assert set(runs) == {"turn0", "turn1", "side0", "side1", "side2", "raised", "elsewhere"}
    for number in range(2):
        assert runs[f"turn{number}"].points("m") == [(s, number * 10.0 + s) for s in range(3)]
    for number in range(3):
        side = runs[f"side{number}"]
        assert side.points("m") == [(s, number * 1000.0 + s) for s in range(50)]
        assert {k for k in side.metrics if k.startswith("only")} == {f"only{number}"}
    statuses = {name: run.status for name, run in runs.items()}
    assert statuses.pop("side1") == "FAILED"
    assert runs["side1"].tags["wandb.exit_code"] == "3"
    assert statuses.pop("raised") == "FAILED"
    assert set(statuses.values()) == {"FINISHED"}
    assert runs["elsewhere"].tags["wandb.project"] == "other"
    assert not journals(env)


@pytest.mark.slow
def test_a_script_that_never_calls_finish_finishes_all_the_same(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Normal end: FINISHED; sys.exit(1) and an exception: FAILED; the exit code is the script's."""
    endings = {"normal": ("", 0), "exit": ("sys.exit(1)", 1), "raise": ("raise KeyError('k')", 1)}
    for name, (end, code) in endings.items():
        done = run_script(
            f"""
import sys
import mlflow_wandb_plugin.wandb as wandb
wandb.init(project="p", id="{name}")
wandb.log({{"m": 1}})
wandb.log({{"m": 2}}, commit=False)
{end}
""",
            env,
            tmp_path / "work",
            check=False,
        )
        assert done.returncode == code, done.stderr
    # An uncaught exception ends the process before wandb's own finish: the replicator goes on.
    wait_until(lambda: not journals(env), 240, "all delivered")
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    assert {name: run.status for name, run in runs.items()} == {
        "normal": "FINISHED", "exit": "FAILED", "raise": "FAILED",
    }  # fmt: skip
    assert all(run.points("m") == [(0, 1.0), (1, 2.0)] for run in runs.values())


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_mlflow_run(
    env: dict[str, str], tmp_path: Path, fresh_store: str
) -> None:
    """The same id given again: both segments in one run, RUNNING between, then FINISHED."""
    script = """
import json
import mlflow_wandb_plugin.wandb as wandb
part = PART
run = wandb.init(project="p", id="again", resume="allow", tags=["t"],
                 config={"part": part, f"only{part}": 1})
def where():
    from mlflow import MlflowClient
    found = MlflowClient().get_run(run.config["mlflow_run_id"])
    return [found.info.run_id, found.info.status, found.data.tags["mlflow.wandb.state"]]
print("DURING", json.dumps(where()))
for i in range(4):
    run.log({"m": part * 10 + i, "text": f"part {part}"}, step=part * 10 + i)
run.log({"table": wandb.Table(columns=["a"], data=[[part]])}, step=part * 10 + 5)
run.summary[f"final{part}"] = part
run.finish()
print("AFTER", json.dumps(where()))
"""
    outputs = [
        run_script(script.replace("PART", str(part)), env, tmp_path / "work").stdout
        for part in (1, 2)
    ]
    said = [
        json.loads(line.split(" ", 1)[1])
        for output in outputs
        for line in output.splitlines()
        if line.startswith(("DURING", "AFTER"))
    ]
    assert len({run_id for run_id, _, _ in said}) == 1
    assert [(status, state) for _, status, state in said] == [
        ("RUNNING", "live"), ("FINISHED", "complete"), ("RUNNING", "live"),
        ("FINISHED", "complete"),
    ]  # fmt: skip
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"], tmp_path / "dual").values()
    assert run.points("m") == [(step, float(step)) for step in (10, 11, 12, 13, 20, 21, 22, 23)]
    folder = tmp_path / "dual" / run.run_id / "wandb"
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    texts = [(row["_step"], row["text"]) for row in rows if "text" in row]
    assert texts == [(step, f"part {step // 10}") for step in (10, 11, 12, 13, 20, 21, 22, 23)]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["final1"], summary["final2"], summary["m"]) == (1, 2, 23)
    config = json.loads((folder / "config.json").read_text())
    assert (config["part"], config["only1"], config["only2"]) == (2, 1, 1)
    assert (run.params["part"], run.params["only1"], run.params["only2"]) == ("1", "1", "1")
    tables = {entry["path"] for entry in json.loads(run.tags["mlflow.loggedArtifacts"])}
    assert tables == {"tables/table/step_15.json", "tables/table/step_25.json"}

    # Its own history: nothing to do for the MLflow that has it, one whole run for another one.
    (outcome,) = backfill(str(wandb_folder(env)), env["MLFLOW_TRACKING_URI"])
    assert (outcome.action, outcome.verdict) == ("skipped", "dual-written")
    (outcome,) = backfill(str(wandb_folder(env)), fresh_store)
    assert outcome.action == "migrated"
    (filled,) = read_runs(fresh_store, tmp_path / "filled").values()
    # Summary-only numbers stand at the last step there was when the run, or its part, ended.
    assert filled.metrics["m"] == run.metrics["m"]
    assert (filled.latest["final1"], filled.latest["final2"]) == (1.0, 2.0)
    assert (filled.params, filled.start, filled.status) == (run.params, run.start, run.status)
    assert set(filled.artifacts) == set(run.artifacts)


def test_forked_children_log_into_their_parents_run(env: dict[str, str], tmp_path: Path) -> None:
    """os.fork and multiprocessing: every row of parent and children is in MLflow once."""
    run_script(
        """
import multiprocessing, os
import mlflow_wandb_plugin.wandb as wandb

def child(number):
    for i in range(20):
        wandb.log({f"child{number}": i})

run = wandb.init(project="p", id="family")
for i in range(10):
    run.log({"parent": i})
context = multiprocessing.get_context("fork")
children = [context.Process(target=child, args=(number,)) for number in range(2)]
for process in children: process.start()
for process in children: process.join()
pid = os.fork()
if pid == 0:
    wandb.log({"forked": 1})
    os._exit(0)
os.waitpid(pid, 0)
for i in range(10):
    run.log({"parent": 10 + i})
run.finish()
""",
        {**env, "PYTHONWARNINGS": "ignore"},
        tmp_path / "work",
    )
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    assert [value for _, value in run.points("parent")] == [float(i) for i in range(20)]
    for number in range(2):
        assert [value for _, value in run.points(f"child{number}")] == [float(i) for i in range(20)]
    assert [value for _, value in run.points("forked")] == [1.0]
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")
    (outcome,) = backfill(str(wandb_folder(env)), env["MLFLOW_TRACKING_URI"])
    assert outcome.verdict == "dual-written"


@pytest.mark.slow
def test_spawned_processes_log_into_a_run_that_they_are_handed(
    env: dict[str, str], tmp_path: Path
) -> None:
    """While its own process does: the steps are those of W&B's log, and it ends the run."""
    run_script(
        """
import multiprocessing, time
import mlflow_wandb_plugin.wandb as wandb

def work(run):
    for i in range(100):
        run.log({"child": i})
    # W&B answers when it has the rows.
    assert run.summary["child"] == 99

if __name__ == "__main__":
    with wandb.init(project="p", id="handed") as run:
        child = multiprocessing.get_context("spawn").Process(target=work, args=(run,))
        child.start()
        i = 0
        while child.is_alive():
            run.log({"parent": i})
            i += 1
            time.sleep(0.001)
        assert child.exitcode == 0
        run.log({"last": 1})
""",
        env,
        tmp_path / "work",
    )
    run = read_runs(env["MLFLOW_TRACKING_URI"])["handed"]
    (file,) = wandb_folder(env).glob("offline-run-*/run-handed.wandb")
    logged = [
        (step, key, value)
        for step, row in core_says.rows(file)
        for (key, *_), value in row.items()
        if key != "_timestamp"
    ]
    keys = ("parent", "child", "last")
    found = [(step, key, value) for key in keys for step, value in run.points(key)]
    assert sorted(found) == sorted(logged)
    assert [value for _, value in run.points("child")] == [float(i) for i in range(100)]
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")


def test_define_metric_makes_the_steps_and_summaries_that_wandb_makes(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Globs, a hidden step metric's insertion, and each statistic."""
    run_script(
        """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="p", id="defined")
run.define_metric("train/step")
run.define_metric("train/*", step_metric="train/step")
run.define_metric("best", summary="max")
run.define_metric("stat", summary="min,max,mean,last,first")
run.define_metric("quiet", hidden=True)
run.define_metric("none", summary="none")
for i, value in enumerate([5.0, 1.0, 3.0]):
    run.log({"train/step": i * 100})
    run.log({"train/loss": value, "best": value, "stat": value, "quiet": value, "none": value})
run.finish()
""",
        env,
        tmp_path / "work",
    )
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"], tmp_path / "dual").values()
    assert run.points("train/loss") == [(0, 5.0), (100, 1.0), (200, 3.0)]
    assert run.points("train/step") == [
        (0, 0.0), (1, 0.0), (2, 100.0), (3, 100.0), (4, 200.0), (5, 200.0),
    ]  # fmt: skip
    summary = json.loads((tmp_path / "dual" / run.run_id / "wandb" / "summary.json").read_text())
    assert summary == {
        "best": {"max": 5}, "stat": {"first": 5, "last": 3, "max": 5, "mean": 3, "min": 1},
        "train/loss": 3, "train/step": 200, "quiet": 3,
    }  # fmt: skip
    assert run.latest["best.max"] == 5.0
    assert [run.latest[f"stat.{name}"] for name in ("min", "max", "mean")] == [1.0, 5.0, 3.0]


def test_the_mlflow_run_is_known_after_init_and_printed_with_its_page(
    env: dict[str, str], tmp_path: Path, server: str
) -> None:
    """``run.config["mlflow_run_id"]`` and the run's URL, on a real server."""
    done = run_script(
        """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="known-after-init", id="known")
print("CONFIG", run.config["mlflow_run_id"], run.config["mlflow_experiment_id"],
      run.config["mlflow_tracking_uri"])
for i in range(10):
    run.log({"m": i})
artifact = wandb.Artifact("a", "data")
with artifact.new_file("x.txt") as file:
    file.write("through the server")
run.log_artifact(artifact)
run.finish()
""",
        {**env, "MLFLOW_TRACKING_URI": server},
        tmp_path / "work",
    )
    said = next(line for line in done.stdout.splitlines() if line.startswith("CONFIG"))
    _, run_id, experiment_id, uri = said.split()
    assert uri == server
    page = f"MLflow run {run_id} at {server}/#/experiments/{experiment_id}/runs/{run_id}"
    page += "?workflowType=machine_learning"
    assert page in done.stderr
    run = read_runs(server, tmp_path / "dual", "known")["known"]
    assert run.run_id == run_id
    assert run.points("m") == [(i, float(i)) for i in range(10)]
    assert any(path.endswith("/x.txt") for path in run.artifacts)
    (outcome,) = backfill(str(wandb_folder(env)), server)
    assert (outcome.action, outcome.verdict) == ("skipped", "dual-written")


@pytest.mark.slow
def test_a_child_that_does_not_finish_ends_as_wandb_core_ends_it(
    env: dict[str, str], tmp_path: Path
) -> None:
    """A child of multiprocessing skips exit hooks: its run goes on until the parent's wandb-core
    ends it, and is then finished, as in W&B."""
    said = run_script(
        """
import json, multiprocessing, time
import mlflow_wandb_plugin.wandb as wandb
from mlflow import MlflowClient
def work():
    run = wandb.init(project="p", id="child")
    for i in range(5):
        run.log({"m": i})
wandb.setup()
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
time.sleep(3)
(experiment,) = MlflowClient().search_experiments(filter_string="name = 'p'")
(run,) = MlflowClient().search_runs([experiment.experiment_id])
print("DURING", run.info.status)
""",
        env,
        tmp_path / "work",
    ).stdout
    assert "DURING RUNNING" in said
    wait_until(lambda: not journals(env), 240, "all delivered")
    run = read_runs(env["MLFLOW_TRACKING_URI"])["child"]
    assert (run.status, run.tags["wandb.exit_code"]) == ("FINISHED", "0")
    assert run.points("m") == [(i, float(i)) for i in range(5)]
