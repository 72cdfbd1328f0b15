"""Functions that hold wandb, in the workers that they are sent to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.mlflow_state import read_runs
from tests.support.processes import run_command, run_script

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("patient")]

TRAIN = """
def train(run_id):
    with wandb.init(project="p", id=run_id) as run:
        run.log({"m": 1})
"""
SENT = """
import pathlib
import cloudpickle
pathlib.Path("sent").write_bytes(cloudpickle.dumps(train))
"""
WORKER = """
import pathlib, pickle
pickle.loads(pathlib.Path("sent").read_bytes())("worker")
"""


@pytest.mark.parametrize(
    "imported",
    [
        "import mlflow_wandb_plugin.wandb as wandb",
        "import wandb, mlflow_wandb_plugin\nmlflow_wandb_plugin.autolog()",
    ],
    ids=["drop-in", "autolog"],
)
def test_a_function_that_cloudpickle_sends_is_replicated(
    env: dict[str, str], tmp_path: Path, imported: str
) -> None:
    """The process that loads it imports nothing else; it has the sender's settings."""
    work = tmp_path / "work"
    sender = env | {"MLFLOW_WANDB_EXPERIMENT": "of the sender"}
    run_script(f"{imported}\n{TRAIN}\n{SENT}", sender, work)
    run_script(WORKER, env, work)
    run = read_runs(env["MLFLOW_TRACKING_URI"])["worker"]
    assert run.points("m") == [(0, 1.0)]
    from mlflow import MlflowClient

    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    experiment = client.get_run(run.run_id).info.experiment_id
    assert client.get_experiment(experiment).name == "of the sender"


def test_what_is_sent_has_no_credentials(env: dict[str, str], tmp_path: Path) -> None:
    """A tracking URI with a password stays; the worker has its own settings for MLflow."""
    work = tmp_path / "work"
    secret = env | {"MLFLOW_WANDB_TRACKING_URI": "http://me:open-sesame@127.0.0.1:9"}
    run_script(f"import mlflow_wandb_plugin.wandb as wandb\n{TRAIN}\n{SENT}", secret, work)
    assert b"open-sesame" not in (work / "sent").read_bytes()
    run_script(WORKER, env, work)
    assert set(read_runs(env["MLFLOW_TRACKING_URI"])) == {"worker"}


def test_a_worker_that_follows_already_keeps_its_settings(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Its own call of autolog stands; one that cannot follow says so and trains all the same."""
    work = tmp_path / "work"
    sender = env | {"MLFLOW_WANDB_EXPERIMENT": "of the sender"}
    run_script(f"import mlflow_wandb_plugin.wandb as wandb\n{TRAIN}\n{SENT}", sender, work)
    own = "import mlflow_wandb_plugin\nmlflow_wandb_plugin.autolog(experiment='its own')\n"
    run_script(own + WORKER, env, work)
    from mlflow import MlflowClient

    names = {found.name for found in MlflowClient(env["MLFLOW_TRACKING_URI"]).search_experiments()}
    assert names == {"Default", "its own"}
    unknown = "import wandb\ndel wandb.Run._on_start\nwandb.init = lambda **_: exit(0)\n"
    done = run_script(unknown + WORKER, env, work)
    assert "runs of this worker are not replicated to MLflow" in done.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_processes_of_multiprocessing_are_replicated(
    env: dict[str, str], tmp_path: Path, method: str
) -> None:
    """The target's module knows nothing of the package, and the script switches it on where the
    new process does not come by. A process that does not import wandb does not do so for this."""
    work = tmp_path / "work"
    (work / "job.py").write_text(f"import wandb\n{TRAIN}")
    (work / "other.py").write_text("import sys\ndef look():\n    assert 'wandb' not in sys.modules")
    code = f"""
import multiprocessing

if __name__ == "__main__":
    import mlflow_wandb_plugin
    import job, other
    mlflow_wandb_plugin.autolog(experiment="of the parent")
    started = multiprocessing.get_context("{method}")
    others = [] if "{method}" == "fork" else [(other.look, ())]
    for target, arguments in [(job.train, ("child",)), *others]:
        process = started.Process(target=target, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == 0
"""
    (work / "main.py").write_text(code)
    # The fork server's socket has a short name.
    short = {name: value for name, value in env.items() if name != "TMPDIR"}
    run_command([sys.executable, "main.py"], short, work)
    assert read_runs(env["MLFLOW_TRACKING_URI"])["child"].points("m") == [(0, 1.0)]
