"""Each argument of Ray's own callbacks and setup functions, in both homes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.integrations.ray.conftest import Left, assert_same_points, rows_of
from tests.support.mlflow_state import read_runs
from tests.support.stores import copy_store

pytestmark = pytest.mark.slow
PARAMS = {"lr": "0.1", "opt.name": "adam", "api_key": "***"}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    """A store that no variable names."""
    return copy_store(empty_store, tmp_path_factory.mktemp("other") / "other.db")


@pytest.fixture(scope="module")
def left(program: Callable[..., Left], other: str) -> Left:
    # The experiment by id is one of the store that variables name: its first after the default.
    registry = other.replace("other.db", "registry.db")
    return program("options", other, registry, "0")


def test_arguments_of_the_callback_for_wandb(left: Left) -> None:
    """Project, group, key, tags and what wandb.init takes arrive; names are nested with a slash;
    excluded keys, texts, and Ray's own flags are in neither home; config numbers are logged, as
    `log_config` says, and what describes the process is config."""
    run, twin = left.only("of-wandb")
    assert run.name == left.said["of-wandb"]
    assert (run.group, run.job_type, run.notes) == ("a-group", "tuning", "some notes")
    assert run.tags == ["one", "two"]
    [row] = rows_of(run)
    picture = row.pop("picture")
    assert (picture["_type"], picture["caption"]) == ("image-file", "a picture")
    clip = row.pop("clip")
    assert clip["_type"] == "video-file"
    with Image.open(run.files[clip["path"]].path) as film:
        # A hundredth of a second is the unit of such files.
        assert (film.format, film.n_frames, film.info["duration"]) == ("GIF", 3, 250)
    assert [path for path in twin.artifacts if path.endswith(clip["path"])]
    assert row == {
        "training_iteration": 1, "env_runners/return": 3.0, "info/a": 1, "zero_d": 32.0,
        "timestamp": 1_700_000_000, "config/lr": 0.2, "config/left_out": 1,
    }  # fmt: skip
    assert twin.points("env_runners/return") == [(1, 3.0)]
    assert set(row) <= set(twin.metrics)
    config = {key: run.values[key] for key in ("lr", "opt", "pid", "date", "trial_id")}
    assert config == {
        "lr": 0.2, "opt": {"name": "adam"}, "pid": 5, "date": "today", "trial_id": "abcde_00000",
    }  # fmt: skip
    assert twin.params["lr"] == "0.1"
    assert twin.params.items() >= (PARAMS | {"pid": "5", "date": "today"}).items()
    assert (run.state, twin.status) == ("finished", "FINISHED")


def test_a_checkpoint_has_the_name_that_rays_callback_gives_it(left: Left) -> None:
    """`upload_checkpoints`: the artifact is named after the trial, in both homes."""
    run, twin = left.only("of-wandb")
    (artifact,) = run.logged_artifacts
    assert artifact.collection.name == f"checkpoint_{run.display_name}"
    assert artifact.collection.type == "model"
    assert json.loads(artifact.metadata or "{}") == {"training_iteration": 1}
    assert [path for path in twin.artifacts if path.endswith("/state.json")]


def test_arguments_of_the_callback_for_mlflow(left: Left, other: str, tmp_path: Path) -> None:
    """Tracking URI, experiment, tags and token arrive; the W&B project is named after the
    experiment; params are logged at the end; the trial's files are the MLflow run's."""
    (run,) = left.wandb("of-mlflow")
    twin = read_runs(other, tmp_path)[left.said["of-mlflow"]]
    assert run.name == left.said["of-mlflow"]
    assert left.said["of-mlflow"] not in left.mlflow
    client = MlflowClient(other)
    experiment = client.get_run(twin.run_id).info.experiment_id
    assert client.get_experiment(experiment).name == "of-mlflow"
    tags = {"user_name": "John", "trial_name": run.display_name}
    assert twin.tags.items() >= tags.items()
    assert run.values["mlflow_calls"] == {"tags": tags}
    assert twin.params.items() >= PARAMS.items()
    assert run.values["lr"] == 0.1
    files = {"trial/progress.csv", "trial/below/more.txt"}
    assert files <= set(run.files)
    assert {f"wandb/files/{file}" for file in files} <= set(twin.artifacts)
    assert "config/lr" not in twin.metrics


def test_what_variables_say(left: Left) -> None:
    """Ray's variables name W&B's project and group, MLflow's its experiment; an id takes
    precedence over a name."""
    run, twin = left.only("of-variables")
    assert run.group == "group-of-variables"
    client = MlflowClient(left.uri)
    assert client.get_run(twin.run_id).info.experiment_id == "0"
    # `save_checkpoints`, the old name of `upload_checkpoints`.
    (artifact,) = run.logged_artifacts
    assert artifact.collection.name == f"checkpoint_{run.display_name}"
    assert [path for path in twin.artifacts if path.endswith("/state.json")]
    assert left.mlflow[twin.tags["mlflow.parentRunId"]].name == "group-of-variables"
    assert client.get_experiment_by_name("another") is None


def test_an_experiment_that_reaches_no_home_ends_with_an_error(left: Left) -> None:
    """It is not told as offline: an offline run is refused as well."""
    assert left.said["lost"].startswith("NotLoggedError: nothing was logged to W&B or MLflow: ")
    assert "no/project" in left.said["lost"]
    assert "The run continues offline" not in left.output


def test_arguments_of_the_setup_functions(left: Left, other: str) -> None:
    """By position and by name, as Ray's own: W&B's, and MLflow's with its active run."""
    first = left.server.run("setup/setup-wandb")
    assert (first.display_name, first.group, first.tags) == ("a trial", "a-group", ["one"])
    assert_same_points(first, left.mlflow["setup-wandb"])
    assert left.mlflow["setup-wandb"].params == PARAMS | {"left_out": "1"}

    second = left.server.run("new/setup-dual")
    twin = left.mlflow["setup-dual"]
    assert (second.display_name, twin.name) == ("a name", "a name")
    assert twin.tags["user_name"] == "John"
    client = MlflowClient(left.uri)
    experiment = client.get_experiment(client.get_run(twin.run_id).info.experiment_id)
    assert (experiment.name, experiment.artifact_location) == (
        "new", (left.work / "elsewhere").as_uri(),
    )  # fmt: skip

    third = left.server.run("made before/setup-mlflow")
    twin = read_runs(other)["setup-mlflow"]
    assert (third.display_name, twin.name) == ("by mlflow", "by mlflow")
    assert twin.points("loss") == [(7, 3.0)]
    assert [row["loss"] for row in rows_of(third)] == [3.0]
    assert twin.tags["user_name"] == third.values["mlflow_calls"]["tags"]["user_name"] == "Jane"
    by_id = read_runs(other)["setup-by-id"]
    assert by_id.points("loss") == [(0, 4.0)]
    client = MlflowClient(other)
    experiment = client.get_experiment(client.get_run(by_id.run_id).info.experiment_id)
    assert experiment.name == "made before"
    assert [row["loss"] for row in rows_of(left.server.run("made before/setup-by-id"))] == [4.0]
    assert left.said["setup"] == ["ValueError", "MissingArgumentError"]
