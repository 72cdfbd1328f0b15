"""Every way to switch replication on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.commands import mlflow_wandb, wandb_folder
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script

pytestmark = pytest.mark.usefixtures("patient")


def test_it_is_known_which_runs_are_followed(env: dict[str, str], tmp_path: Path) -> None:
    """Those that start after the tap is installed, until they end."""
    run_script(
        """
import wandb
from mlflow_wandb_plugin import autolog
from mlflow_wandb_plugin.live.tap import follows
before = wandb.init(project="p", id="before")
autolog()
assert not follows(before)
after = wandb.init(project="p", id="after", reinit="create_new")
assert follows(after)
after.finish()
assert not follows(after)
before.finish()
""",
        env,
        tmp_path / "work",
    )
    assert set(read_runs(env["MLFLOW_TRACKING_URI"])) == {"after"}


def test_the_drop_in_is_wandb_itself(env: dict[str, str], tmp_path: Path) -> None:
    """Same module, same classes; ``wandb.run`` follows the run; disabled mode does nothing."""
    run_script(
        """
import mlflow_wandb_plugin.wandb as wandb
import wandb as real
assert wandb is real
from mlflow_wandb_plugin.wandb import init, Table
assert (init, Table) == (real.init, real.Table)
assert wandb.run is None
with wandb.init(mode="disabled", project="p", id="nothing") as run:
    run.log({"m": 1})
    assert "mlflow_run_id" not in dict(run.config)
run = wandb.init(project="p", id="dropin")
assert isinstance(run, wandb.Run) and type(run) is real.Run
assert wandb.run is run
wandb.log({"m": 1})
wandb.run.log({"m": 2})
wandb.Run.log(run, {"m": 3})
wandb.finish()
assert wandb.run is None
""",
        env,
        tmp_path / "work",
    )
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    assert set(runs) == {"dropin"}
    assert runs["dropin"].points("m") == [(0, 1.0), (1, 2.0), (2, 3.0)]


@pytest.mark.slow
def test_autolog_before_and_after_wandb_and_twice(env: dict[str, str], tmp_path: Path) -> None:
    """One line in any order; a name imported from wandb earlier is tapped, too; no double rows."""
    run_script(
        """
import sys
import mlflow_wandb_plugin
assert not {"wandb", "mlflow"} & set(sys.modules), "importing the package imports neither"
mlflow_wandb_plugin.autolog()
from wandb import init
mlflow_wandb_plugin.autolog(experiment="renamed {project}")
mlflow_wandb_plugin.autolog()
with init(project="p", id="before") as run:
    run.log({"m": 1})
mlflow_wandb_plugin.autolog(experiment="renamed {project}")
with init(project="p", id="after") as run:
    run.log({"m": 2})
""",
        env,
        tmp_path / "work",
    )
    run_script(
        """
from wandb import init
import mlflow_wandb_plugin
mlflow_wandb_plugin.autolog()
with init(project="p", id="late") as run:
    run.log({"m": 3})
""",
        env,
        tmp_path / "work",
    )
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    assert {name: run.points("m") for name, run in runs.items()} == {
        "before": [(0, 1.0)], "after": [(0, 2.0)], "late": [(0, 3.0)],
    }  # fmt: skip
    from mlflow import MlflowClient

    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("renamed p")
    assert experiment is not None
    assert client.get_run(runs["after"].run_id).info.experiment_id == experiment.experiment_id


def test_dual_write_on_every_kind_of_function(env: dict[str, str], tmp_path: Path) -> None:
    """Sync, async, generator, async generator; with and without arguments; errors pass through."""
    run_script(
        """
import asyncio
import wandb
from mlflow_wandb_plugin import dual_write

@dual_write
def bare(value):
    wandb.log({"m": value})
    return value + 1

@dual_write(project="p", id="sync", config={"lr": 1})
def sync(value):
    assert wandb.run.id == "sync"
    return inner(value)

@dual_write(project="p", id="never opened")
def inner(value):
    wandb.log({"m": value})
    return wandb.run.id

@dual_write(project="p", id="coroutine")
async def coroutine():
    wandb.log({"m": 3})
    await asyncio.sleep(0)
    wandb.log({"m": 4})
    return "awaited"

@dual_write(project="p", id="generator")
def generator():
    for i in range(3):
        wandb.log({"m": i})
        got = yield i
    return "returned"

@dual_write(project="p", id="stopped")
def endless():
    i = 0
    while True:
        wandb.log({"m": i})
        yield i
        i += 1

@dual_write(project="p", id="asyncgen")
async def asyncgen():
    for i in range(2):
        wandb.log({"m": i})
        yield i

@dual_write(project="p", id="failed")
def failed():
    wandb.log({"m": 1})
    raise LookupError("mine")

@dual_write(project="p", id="failedasync")
async def failedasync():
    wandb.log({"m": 1})
    raise LookupError("mine")

assert bare(1) == 2 and bare.__name__ == "bare"
assert sync(2) == "sync"
assert asyncio.run(coroutine()) == "awaited"
def delegate():
    got = yield from generator()
    assert got == "returned"
assert list(delegate()) == [0, 1, 2]
stopping = endless()
assert [next(stopping), next(stopping)] == [0, 1]
stopping.close()
async def collect():
    return [value async for value in asyncgen()]
assert asyncio.run(collect()) == [0, 1]
for call in (failed, lambda: asyncio.run(failedasync())):
    try:
        call()
    except LookupError as error:
        assert str(error) == "mine"
    else:
        raise AssertionError("swallowed")
assert wandb.run is None
""",
        env,
        tmp_path / "work",
    )
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    (bare,) = [run for run in runs.values() if run.tags["wandb.project"] != "p"]
    assert (bare.points("m"), bare.status) == ([(0, 1.0)], "FINISHED")
    wanted = {
        "sync": [(0, 2.0)], "coroutine": [(0, 3.0), (1, 4.0)],
        "generator": [(0, 0.0), (1, 1.0), (2, 2.0)], "stopped": [(0, 0.0), (1, 1.0)],
        "asyncgen": [(0, 0.0), (1, 1.0)], "failed": [(0, 1.0)], "failedasync": [(0, 1.0)],
    }  # fmt: skip
    named = {name: run for name, run in runs.items() if run is not bare}
    assert {name: run.points("m") for name, run in named.items()} == wanted
    statuses = {name: run.status for name, run in named.items()}
    assert {statuses.pop("failed"), statuses.pop("failedasync")} == {"FAILED"}
    assert set(statuses.values()) == {"FINISHED"}
    assert named["sync"].params == {"lr": "1"}


@pytest.mark.slow
def test_an_unmodified_script_under_mlflow_wandb_run(env: dict[str, str], tmp_path: Path) -> None:
    """Arguments, exit code, another sitecustomize and children are as without the command."""
    work = tmp_path / "work"
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import os; os.environ['OTHER_SITE'] = 'ran'\n")
    (work / "train.py").write_text(
        """
import os, subprocess, sys
assert os.environ["OTHER_SITE"] == "ran"
assert "mlflow_wandb_plugin.live.tap" not in sys.modules, "not before wandb is imported"
import wandb
assert wandb.__spec__.loader is wandb.__loader__
wandb.init(project="p", id=sys.argv[1])
wandb.log({"m": 1})
wandb.finish()
if sys.argv[1] == "parent":
    subprocess.run([sys.executable, __file__, "child"], check=False)
sys.exit(7)
"""
    )
    path = f"{other}:{env.get('PYTHONPATH', '')}".rstrip(":")
    done = mlflow_wandb(
        "run", "--", sys.executable, "train.py", "parent",
        env={**env, "PYTHONPATH": path}, cwd=work,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    assert {name: run.points("m") for name, run in runs.items()} == {
        "parent": [(0, 1.0)], "child": [(0, 1.0)],
    }  # fmt: skip
    assert len(list(wandb_folder(env).glob("offline-run-*"))) == 2


def test_a_script_whose_libraries_ask_for_wandb_first(env: dict[str, str], tmp_path: Path) -> None:
    """They look for its spec, as Hugging Face's do, and import it later."""
    (tmp_path / "work" / "train.py").write_text(
        """
import importlib.util
assert importlib.util.find_spec("wandb") is not None
assert importlib.util.find_spec("wandb") is not None
import wandb
with wandb.init(project="p", id="asked") as run:
    run.log({"m": 1})
"""
    )
    done = mlflow_wandb("run", "--", sys.executable, "train.py", env=env, cwd=tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert read_runs(env["MLFLOW_TRACKING_URI"])["asked"].points("m") == [(0, 1.0)]


def test_mlflow_wandb_run_of_what_is_not_there(env: dict[str, str], tmp_path: Path) -> None:
    """One line that names the command; exit code 2."""
    done = mlflow_wandb("run", "--", "no-such-command", env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot run no-such-command: No such file" in done.stderr
    assert "Traceback" not in done.stderr
