"""DualLogger as recipes use it: torchtune makes it from a config and calls its four methods."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from tests.integrations.torchtune.both_runs import BothRuns
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_command, run_script
from tests.wandb_server import WandbServer

SCRIPT = Path(__file__).with_name("every_use.py")


class Logged:
    """What the script found, and its runs."""

    def __init__(self, work: Path, wandb: WandbServer, uri: str, said: str) -> None:
        self.said = said
        self.found = json.loads((work / "found.json").read_text())
        self.runs = read_runs(uri)
        self._wandb, self._uri, self._folder = wandb, uri, work / "read"

    def homes(self, run_id: str) -> BothRuns:
        return BothRuns.of(self._wandb, self._uri, f"unit/{run_id}", self._folder)


@pytest.fixture(scope="module")
def logged(place: tuple[Path, dict[str, str]], wandb: WandbServer) -> Logged:
    folder, env = place
    work = folder / "work"
    done = run_command([sys.executable, str(SCRIPT)], env, work, timeout=200)
    return Logged(work, wandb, env["MLFLOW_TRACKING_URI"], done.stderr)


@pytest.mark.parametrize(
    "run_id",
    [
        "full",
        "bare",
        "crashed",
        "remains",
        "cleaned",
        "fallback",
        "beside",
        "given",
        "custom",
        "saving",
    ],
)
def test_both_backends_hold_the_same(logged: Logged, run_id: str) -> None:
    """Every point with its time, config, files, artifacts and status of each run."""
    logged.homes(run_id).assert_equal()


def test_all_arguments_of_both_loggers_arrive(logged: Logged) -> None:
    """W&B's own, MLflow's own, and what is left for wandb.init; log_dir is made."""
    homes = logged.homes("full")
    run = homes.wandb
    assert run.project.name == "unit"
    assert (run.group, run.job_type, run.notes) == ("g1", "finetune", "some notes")
    assert (run.display_name, run.tags) == ("a name", ["one", "two"])
    assert homes.mlflow.name == "a name"
    assert homes.mlflow.tags["run_group"] == "g1"
    from mlflow import MlflowClient

    uri = logged._uri
    experiment = MlflowClient(uri).get_experiment_by_name("exp-unit")
    assert MlflowClient(uri).get_run(homes.mlflow.run_id).info.experiment_id == (
        experiment.experiment_id
    )
    assert "run" in logged.found["wandb files below"]


def test_values_and_steps_as_recipes_log_them(logged: Logged) -> None:
    """0-d tensors of any type, numpy scalars, NaN; global_step is the axis of both homes."""
    homes = logged.homes("full")
    wanted = {
        "float": 0.5, "int": 3.0, "t32": 0.10000000149011612, "bf16": 0.5, "grad": 4.0, "one": 7.0,
        "np0": 1.25, "np32": 0.25, "nan": "nan",
    }  # fmt: skip
    for key, value in wanted.items():
        assert homes.mlflow.points(key) == [(2, value)], key
    assert math.isnan(dict(homes.points("nan"))[2])
    assert homes.points("single") == [(1, 1.5)]
    assert "late" not in homes.mlflow.metrics
    defined = json.loads(homes.mlflow.tags["mlflow.wandb.steps"])["definitions"]
    assert defined == [[0, "global_step", ""], [0, "*", "global_step"]]


def test_a_step_that_falls_is_kept(logged: Logged) -> None:
    """After a resume a recipe counts steps again: no home drops them."""
    homes = logged.homes("full")
    steps = (5, 6, 7, 6, 7, 8)
    wanted = [(step, 1 / (step + number)) for number, step in enumerate(steps)]
    assert homes.points("loss") == wanted
    by_time = sorted(homes.mlflow.metrics["loss"], key=lambda point: (point[1], point[2]))
    assert sorted((step, value) for value, _, step in by_time) == sorted(wanted)


def test_the_config_is_in_both_backends_without_secrets(logged: Logged) -> None:
    """As W&B's config, MLflow's params, and the YAML with its interpolations."""
    import yaml

    homes = logged.homes("full")
    assert homes.config["data"] == "out/full/data"
    assert homes.mlflow.params["model.sizes"] == "[1, 2]"
    assert homes.mlflow.params["model.deep.er"] == "0.5"
    hub = {"url": "https://host/x", "hf_token": "***", "key": "***"}
    assert homes.config["hub"] == hub
    text = homes.document("wandb/files/torchtune_config.yaml").decode()
    document = yaml.safe_load(text)
    assert document["data"] == "${output_dir}/data"
    assert document["hub"]["url"] == "https://host/x"
    for secret in ("pass-word", "sesame", "abc"):
        assert secret not in text
    assert logged.found["own copy"]


def test_the_id_is_kept_beside_the_checkpoints(logged: Logged) -> None:
    """So that a resume can go on in both runs."""
    assert logged.found["kept"] == {
        "project": "unit", "entity": "tester", "wandb_run_id": "full",
    }  # fmt: skip


def test_only_rank_zero_logs(logged: Logged) -> None:
    """Any other rank makes no run, no folder and no file."""
    assert logged.found["rank one wrote"] == []
    assert "rank1" not in logged.runs


@pytest.mark.parametrize("run_id", ["crashed", "remains", "cleaned"])
def test_a_recipe_that_crashes_in_a_program_that_continues_has_failed(
    logged: Logged, run_id: str
) -> None:
    """Nobody closes the logger, the next recipe begins, or a finally closes it: failed in both."""
    homes = logged.homes(run_id)
    assert (homes.wandb.state, homes.wandb.exit_code) == ("failed", 1)
    assert homes.mlflow.status == "FAILED"
    assert homes.points("loss") == [(1, 1)]


def test_a_recipe_begun_in_an_except_block_can_end_well(logged: Logged) -> None:
    """The exception that was there before is none of its own."""
    assert logged.homes("fallback").mlflow.status == "FINISHED"


def test_a_checkpoint_of_a_custom_recipe(logged: Logged) -> None:
    """A file or a folder is an artifact of its epoch, with the metadata given; paths are kept."""
    homes = logged.homes("custom")
    artifacts = homes.artifacts()
    first, second = artifacts["torchtune_model_0"], artifacts["torchtune_model_1"]
    assert first["type"] == "model"
    assert first["metadata"] == {"seed": 3, "epochs_run": 1}
    assert list(first["files"]) == ["model.pt"]
    assert sorted(second["files"]) == ["model.pt", "sub/more.bin"]
    bytes_there = [path for path in homes.mlflow.artifacts if path.endswith("sub/more.bin")]
    assert [homes.document(path) for path in bytes_there] == [b"more"]


def test_only_the_final_checkpoint_of_the_configs_checkpointer(logged: Logged) -> None:
    """Not those on the way, and not another checkpointer's of the same class, as PPO has."""
    (name,) = logged.homes("saving").artifacts()
    assert name == "torchtune_model_1"
    artifact = logged.homes("saving").artifacts()[name]
    assert list(artifact["files"]) == ["model-00001-of-00001.bin"]
    assert artifact["metadata"] == {
        "seed": 5, "epochs_run": 2, "total_epochs": 9, "max_steps_per_epoch": None,
    }  # fmt: skip


def test_a_checkpoint_that_cannot_be_logged_is_saved_all_the_same(logged: Logged) -> None:
    """The recipe goes on, the user is told, and the class is as it was before."""
    assert logged.found["saved"] == ["epoch_0", "epoch_1", "epoch_2"]
    assert "checkpoint of epoch 2 is not logged: no artifact today" in logged.said
    assert logged.found["put back"]


@pytest.mark.parametrize("folder", ["garbage", "elsewhere"])
def test_a_resume_that_knows_no_earlier_run_makes_new_ones(logged: Logged, folder: str) -> None:
    """The file is damaged, or of another project: said, and the new ids are kept."""
    kept = logged.found[folder]
    assert (kept["project"], kept["wandb_run_id"] in logged.runs) == ("unit", True)
    assert logged.runs[kept["wandb_run_id"]].name == folder
    assert {"garbage": "no id of an earlier run", "elsewhere": "earlier run is in other"}[
        folder
    ] in logged.said


def test_a_resume_of_a_run_that_the_user_names(logged: Logged) -> None:
    """With ``id`` in the config, W&B goes on in that run instead of starting it anew."""
    homes = logged.homes("bare")
    assert homes.points("loss") == [(0, 1), (1, 2)]
    assert homes.mlflow.points("loss") == [(0, 1.0), (1, 2.0)]


def test_what_cannot_be_is_refused_in_one_line(logged: Logged) -> None:
    """A checkpoint that is not there, an empty folder, a closed logger, a wrong argument."""
    gone, empty, closed, wrong = logged.found["refused"]
    assert gone.startswith("nowhere has no checkpoint")
    assert empty.startswith("out/none has no checkpoint")
    assert "closed" in closed
    assert "log_checkpoints must be one of all, final, none: not 'some'" in wrong


def test_a_wandb_run_that_is_open_already_is_logged_into(logged: Logged) -> None:
    """As torchtune's own logger does; whoever opened it ends it."""
    assert logged.found["left open"]
    homes = logged.homes("theirs")
    assert homes.points("loss") == [(2, 3)]
    assert homes.mlflow.metrics["loss"][0][0] == 3.0
    assert homes.config["seed"] == 7
    assert "ignored" not in logged.runs


# -- what torchtune 0.6.1's MLFlowLogger gets wrong: log_dir is a TypeError (test_all_arguments…),
#    a crash reads as finished (test_a_recipe_that_crashes…, test_recipes.py), and these


def test_an_active_run_of_mlflow_is_no_error_and_is_left_alone(logged: Logged) -> None:
    """Ours is another run; theirs stays active and gets nothing of ours."""
    assert logged.found["still active"]
    (theirs,) = [run for run in logged.runs.values() if run.name == "active"]
    assert (set(theirs.metrics), theirs.params) == ({"theirs"}, {})
    assert logged.homes("beside").mlflow.points("loss") == [(1, 2.0)]


def test_a_run_id_of_mlflow_is_honoured(logged: Logged) -> None:
    """The run that exists gets the params, the points and the end."""
    homes = logged.homes("given")
    assert homes.mlflow.run_id == logged.found["given"]
    assert homes.mlflow.status == "FINISHED"
    assert homes.mlflow.params["seed"] == "7"


def test_the_config_file_has_no_path_of_the_machine(logged: Logged) -> None:
    """It is where W&B's files are, whatever output_dir is."""
    files = [path for path in logged.homes("full").mlflow.artifacts if "torchtune_config" in path]
    assert files == ["wandb/files/torchtune_config.yaml"]


@pytest.mark.parametrize(
    ("how", "exit_code", "status"),
    [
        ("pass", 0, "FINISHED"),
        ("raise RuntimeError", 1, "FAILED"),
        ("raise KeyboardInterrupt", 255, "KILLED"),
    ],
)
def test_a_process_that_ends_without_close(
    place: tuple[Path, dict[str, str]], wandb: WandbServer, how: str, exit_code: int, status: str
) -> None:
    """One that an exception ends has failed, one that Ctrl-C ends was killed, as wandb has it."""
    folder, env = place
    run_id = f"ends{exit_code}"
    code = f"""
from mlflow_wandb_torchtune import DualLogger
logger = DualLogger(project="unit", id="{run_id}")
logger.log("loss", 1.0, 1)
{how}
"""
    (folder / run_id).mkdir()
    run_script(code, env, folder / run_id, check=False)
    homes = BothRuns.of(wandb, env["MLFLOW_TRACKING_URI"], f"unit/{run_id}", folder / "ended")
    homes.assert_equal_points()
    assert (homes.wandb.exit_code, homes.mlflow.status) == (exit_code, status)
    assert homes.mlflow.tags["mlflow.wandb.state"] == "complete"
