"""The callbacks for Train's controller and for Tune, hook by hook, in both homes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.plugins import open_source
from tests.integrations.ray.conftest import Left, assert_same_points, rows_of

pytestmark = pytest.mark.slow
SECRET = "0123456789abcdef"
REPORTS = [{"loss": 1 / (step + 1)} for step in range(3)]


@pytest.fixture(scope="module")
def left(program: Callable[..., Left]) -> Left:
    return program("hooks")


def test_a_failed_training_is_failed_with_rank_zeros_reports(left: Left) -> None:
    """The other ranks' numbers are not among them; the config's token is in neither home."""
    run, twin = left.only("failed")
    assert rows_of(run) == REPORTS
    assert_same_points(run, twin)
    assert (run.state, twin.status) == ("failed", "FAILED")
    assert twin.params == {"lr": "0.1", "token": "***"}
    assert SECRET not in left.output


def test_the_same_experiment_is_resumed_when_restarted(left: Left) -> None:
    """As after the driver's death: the id is the same, and so are both runs."""
    run, twin = left.only("again")
    assert left.said["again"] == [run.name, run.name]
    assert rows_of(run) == REPORTS * 2
    assert_same_points(run, twin)
    assert (run.state, twin.status) == ("finished", "FINISHED")


@pytest.mark.parametrize("name", ["cut-short", "cut-early"])
def test_a_trial_is_resumed_in_another_session(left: Left, name: str) -> None:
    """The state that Tune keeps names its run, and where Tune had not saved it yet, the place and
    the trial do; a changed param is no error, a second start does nothing, and what results say of
    the process is config."""
    run, twin = left.only(name)
    assert left.said[name] == {"abcde_00000": run.name}
    assert rows_of(run) == [
        {
            "score": 10.0 * n, "training_iteration": n, "time_total_s": 1.0,
            "timestamp": 1_700_000_000,
        }
        for n in (1, 2, 3, 4)
    ]  # fmt: skip
    assert twin.points("score") == [(n, 10.0 * n) for n in (1, 2, 3, 4)]
    assert (run.state, twin.status) == ("failed", "FAILED")
    of_ray = {"pid": "1", "date": "today", "node_ip": "127.0.0.1", "hostname": "h"}
    assert twin.params.items() >= ({"lr": "0.5"} | of_ray).items()
    assert run.values["lr"] == 4.0


def test_a_checkpoint_is_read_from_any_file_system(left: Left) -> None:
    """One that is on no disk of this machine is an artifact in both homes."""
    run, twin = left.only("remote")
    (artifact,) = run.logged_artifacts
    assert artifact.manifest is not None
    assert json.loads(artifact.metadata or "{}") == {"training_iteration": 7}
    assert set(json.loads(artifact.manifest.path.read_bytes())["contents"]) == {"state.json"}
    root = left.read / twin.run_id / "wandb" / "artifacts"
    (file,) = root.rglob("state.json")
    assert json.loads(file.read_text()) == {"next": 8}


def test_a_trial_has_its_own_checkpoints_only(left: Left) -> None:
    """Tune also says that it saved where a trial had nothing to save: what the trial goes on from
    then, another trial's checkpoint, is not logged as its own."""
    run, twin = left.only("saves")
    (artifact,) = run.logged_artifacts
    assert json.loads(artifact.metadata or "{}") == {"training_iteration": 1}
    root = left.read / twin.run_id / "wandb" / "artifacts"
    assert [json.loads(file.read_text()) for file in root.rglob("state.json")] == ["own"]


def test_without_a_key_the_run_is_offline_on_the_storage_path(program: Callable[..., Left]) -> None:
    """The reason is one line; MLflow has everything, W&B's files lie beside the experiment."""
    left = program("hooks", "no-key")
    assert left.wandb("no-key") == []
    said = [line for line in left.output.splitlines() if line.startswith("mlflow-wandb: ")]
    assert len(said) == 1
    assert "api_key not configured" in said[0]
    assert said[0].endswith("The run continues offline; `wandb sync` uploads it")
    twin = left.mlflow[left.said["no-key"]]
    assert twin.points("loss") == [(step, row["loss"]) for step, row in enumerate(REPORTS)]
    assert twin.status == "FINISHED"
    (found,) = open_source(str(left.work / "storage" / "no-key")).runs(Selection())
    assert found.run_id == left.said["no-key"]
