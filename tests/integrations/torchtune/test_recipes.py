"""Shipped recipes with DualLogger in their config, on CPU, as ``tune run`` runs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.torchtune.both_runs import BothRuns
from tests.integrations.torchtune.recipes import (
    STEPS_PER_EPOCH,
    TINY,
    recipe_config,
    run_recipe,
)
from tests.support.documents import ROOT
from tests.support.processes import run_command, wait_until
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.slow

MODEL = ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]
ADAPTER = ["adapter_config.json", "adapter_model.pt", "adapter_model.safetensors"]
LOGGED = {"loss", "lr", "tokens_per_second_per_gpu", "grad_norm", "global_step"}
GLOO = f"{TINY.rpartition('.')[0].replace('.', '/')}/gloo_recipe.py"
TWO_RANKS = ("--nproc_per_node", "2")


class Recipes:
    """Runs recipes in a folder each, and reads back what they left."""

    def __init__(
        self, folder: Path, env: dict[str, str], wandb: WandbServer, material: Path
    ) -> None:
        self.folder, self.env = folder, env
        self._wandb, self._material = wandb, material
        self._reads = 0

    def run(
        self,
        name: str,
        recipe: str,
        launcher: tuple[str, ...] = (),
        before: tuple[str, ...] = (),
        **changes: Any,
    ) -> str:
        """Run a recipe whose W&B project is ``name``; its output if it succeeds, else its
        complaint."""
        work = self.folder / name
        config = recipe_config(self._material, work, **changes)
        config["metric_logger"] = config["metric_logger"] | {"project": name}
        done = run_recipe(recipe, config, self.env, work, launcher, check=False, before=before)
        return done.stdout + done.stderr if done.returncode == 0 else f"failed: {done.stderr}"

    def homes(self, name: str) -> BothRuns:
        """The only run of the project ``name``, and its only replica."""
        (run,) = self._wandb.project(name).runs.values()
        self._reads += 1
        folder = self.folder / name / f"read{self._reads}"
        uri = self.env["MLFLOW_TRACKING_URI"]
        return BothRuns.of(self._wandb, uri, f"{name}/{run.name}", folder)

    def output(self, name: str, *path: str) -> Path:
        return self.folder.joinpath(name, "out", *path)

    def processes(self, name: str) -> list[str]:
        """Command lines of processes that name the recipe's folder, or came from there."""
        ours = str(self.folder / name).encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                if ours in command or ours in str((process / "cwd").readlink()).encode():
                    found.append(command.replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def recipes(place: tuple[Path, dict[str, str]], wandb: WandbServer) -> Recipes:
    folder, env = place
    material = folder / "material"
    command = [sys.executable, "-m", TINY, str(material)]
    run_command(command, env | {"PYTHONPATH": str(ROOT)}, folder)
    return Recipes(folder, env, wandb, material)


@pytest.fixture(scope="module")
def full(recipes: Recipes) -> BothRuns:
    said = recipes.run("full", "full_finetune_single_device")
    assert not said.startswith("failed"), said
    return recipes.homes("full")


@pytest.fixture(scope="module")
def crashed(recipes: Recipes) -> tuple[str, BothRuns]:
    """A recipe whose loss breaks in the second step of its second epoch."""
    breaks = {"_component_": f"{TINY}.LossThatBreaks", "at": STEPS_PER_EPOCH + 2}
    said = recipes.run("crash", "full_finetune_single_device", loss=breaks)
    return said, recipes.homes("crash")


def test_full_finetuning(full: BothRuns) -> None:
    """Every step of both epochs is in both homes, and so is the config."""
    full.assert_equal()
    assert full.mlflow.status == "FINISHED"
    assert {key for row in full.rows for key in row} >= LOGGED
    steps = list(range(1, 2 * STEPS_PER_EPOCH + 1))
    assert [step for step, _ in full.mlflow.points("loss")] == steps
    assert [step for step, _ in full.points("lr")] == steps
    assert full.mlflow.params["optimizer.lr"] == "0.01"
    assert full.mlflow.params["metric_logger._component_"] == "mlflow_wandb_torchtune.DualLogger"


def test_checkpoints_are_artifacts_without_what_lies_beside_them(
    full: BothRuns, recipes: Recipes
) -> None:
    """One an epoch, with the model's files alone: README, tokenizer and configs are copies."""
    artifacts = full.artifacts()
    assert sorted(artifacts) == ["torchtune_model_0", "torchtune_model_1"]
    for epoch in (0, 1):
        assert artifacts[f"torchtune_model_{epoch}"]["type"] == "model"
        assert sorted(artifacts[f"torchtune_model_{epoch}"]["files"]) == MODEL
        beside = {file.name for file in recipes.output("full", f"epoch_{epoch}").iterdir()}
        assert {"README.md", "tokenizer.model", "adapter_config.json"} < beside


def test_checkpoints_say_how_far_training_was(full: BothRuns) -> None:
    """The seed (drawn by the recipe), epochs run and to run, steps an epoch."""
    first, last = (full.artifacts()[f"torchtune_model_{epoch}"]["metadata"] for epoch in (0, 1))
    seed = first["seed"]
    common = {"seed": seed, "total_epochs": 2, "max_steps_per_epoch": STEPS_PER_EPOCH}
    assert isinstance(seed, int)
    assert first == common | {"epochs_run": 1}
    assert last == common | {"epochs_run": 2}


def test_lora_finetuning_logs_adapters(recipes: Recipes) -> None:
    """Adapter weights and their config are artifacts, too; `final` means the last epoch."""
    model = {
        "_component_": f"{TINY}.lora_model",
        "lora_attn_modules": ["q_proj", "v_proj"],
        "apply_lora_to_mlp": False,
        "lora_rank": 4,
        "lora_alpha": 8,
    }
    logger = recipe_config(recipes.folder, recipes.folder)["metric_logger"]
    said = recipes.run(
        "lora",
        "lora_finetune_single_device",
        model=model,
        seed=11,
        save_adapter_weights_only=False,
        metric_logger=logger | {"log_checkpoints": "final"},
    )
    assert not said.startswith("failed"), said
    homes = recipes.homes("lora")
    homes.assert_equal()
    assert homes.mlflow.status == "FINISHED"
    (name,) = homes.artifacts()
    artifact = homes.artifacts()[name]
    assert name == "torchtune_model_1"
    assert sorted(artifact["files"]) == sorted(MODEL + ADAPTER)
    assert artifact["metadata"] == {
        "seed": 11, "epochs_run": 2, "total_epochs": 2, "max_steps_per_epoch": STEPS_PER_EPOCH,
    }  # fmt: skip
    config = [path for path in homes.mlflow.artifacts if path.endswith("/adapter_config.json")]
    assert json.loads(homes.document(*config))["r"] == 4


def test_a_crash_in_mid_epoch_failed_in_both_backends(
    crashed: tuple[str, BothRuns], recipes: Recipes
) -> None:
    """All that was logged before is there, with the first epoch's checkpoint."""
    said, homes = crashed
    assert "the loss broke" in said
    homes.assert_equal()
    assert (homes.wandb.state, homes.wandb.exit_code) == ("failed", 1)
    assert homes.mlflow.status == "FAILED"
    assert [step for step, _ in homes.points("loss")] == list(range(1, STEPS_PER_EPOCH + 2))
    assert list(homes.artifacts()) == ["torchtune_model_0"]
    wait_until(lambda: not recipes.processes("crash"), 240, str(recipes.processes("crash")))


def test_a_resume_resumes_the_same_two_runs(
    crashed: tuple[str, BothRuns], recipes: Recipes
) -> None:
    """From the last checkpoint: steps that are trained again are in both homes twice."""
    _, before = crashed
    base = recipe_config(recipes.folder / "material", recipes.folder / "crash")["checkpointer"]
    said = recipes.run(
        "crash",
        "full_finetune_single_device",
        resume_from_checkpoint=True,
        checkpointer=base | {"checkpoint_files": [f"epoch_0/{MODEL[0]}"]},
    )
    assert not said.startswith("failed"), said
    homes = recipes.homes("crash")
    assert (homes.wandb.name, homes.mlflow.run_id) == (before.wandb.name, before.mlflow.run_id)
    assert homes.mlflow.status == "FINISHED"
    assert homes.wandb.state == "finished"
    first = list(range(1, STEPS_PER_EPOCH + 2))
    again = list(range(STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 1))
    assert [step for step, _ in homes.points("loss")] == first + again
    assert [step for step, _ in homes.mlflow.points("loss")] == sorted(first + again)
    homes.assert_equal_points()
    metadata = homes.artifacts()["torchtune_model_1"]["metadata"]
    assert metadata["seed"] == before.artifacts()["torchtune_model_0"]["metadata"]["seed"]
    assert sorted(homes.artifacts()) == ["torchtune_model_0", "torchtune_model_1"]


def rows_and_points(homes: BothRuns) -> Any:
    """What a resume that fails must not change."""
    run, twin = homes.wandb, homes.mlflow
    return homes.rows, run.values, sorted(run.files), twin.metrics, twin.params, twin.status


def test_a_killed_recipe_that_is_resumed_has_the_same_rows_in_both_backends(
    recipes: Recipes,
) -> None:
    """W&B had none of them when the process was killed. A resume that fails before its first step
    adds nothing to either; the next one logs first what W&B lacks, then trains."""
    kills = {"_component_": f"{TINY}.LossThatBreaks", "at": STEPS_PER_EPOCH + 3, "kills": True}
    said = recipes.run("killed", "full_finetune_single_device", loss=kills)
    assert said.startswith("failed")
    wait_until(lambda: recipes.homes("killed").mlflow.status == "KILLED", 60, "the end in MLflow")
    before = recipes.homes("killed")
    assert before.rows == []
    first = list(range(1, STEPS_PER_EPOCH + 3))
    assert [step for step, _ in before.mlflow.points("loss")] == first
    base = recipe_config(recipes.folder / "material", recipes.folder / "killed")["checkpointer"]

    def resume(file: str) -> str:
        return recipes.run(
            "killed",
            "full_finetune_single_device",
            resume_from_checkpoint=True,
            checkpointer=base | {"checkpoint_files": [file]},
        )

    assert resume("epoch_0/not-there.safetensors").startswith("failed")
    assert rows_and_points(recipes.homes("killed")) == rows_and_points(before)
    said = resume(f"epoch_0/{MODEL[0]}")
    assert not said.startswith("failed"), said
    homes = recipes.homes("killed")
    again = list(range(STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 1))
    assert [step for step, _ in homes.points("loss")] == first + again
    homes.assert_equal_points()
    assert (homes.wandb.state, homes.mlflow.status) == ("finished", "FINISHED")


def test_torchtunes_own_logger_under_the_command_has_the_same_metrics(
    full: BothRuns, recipes: Recipes
) -> None:
    """Its config is as torchtune's page has it; `mlflow-wandb run` is before `tune run`. Keys,
    steps and the learning rate are DualLogger's in both homes."""
    command = (str(Path(sys.executable).parent / "mlflow-wandb"), "run", "--")
    own = {
        "_component_": "torchtune.training.metric_logging.WandBLogger",
        "log_dir": str(recipes.folder / "native" / "logs"),
    }
    said = recipes.run("native", "full_finetune_single_device", before=command, metric_logger=own)
    assert not said.startswith("failed"), said
    native = recipes.homes("native")
    native.assert_equal_points()
    assert native.mlflow.status == "FINISHED"
    ours, theirs = (
        {key: [step for _, _, step in points] for key, points in homes.mlflow.metrics.items()
         if not key.startswith("system/")}
        for homes in (full, native)
    )  # fmt: skip
    assert theirs == ours
    assert native.mlflow.points("lr") == full.mlflow.points("lr")
    assert native.points("lr") == full.points("lr")


def test_two_ranks_are_one_run(recipes: Recipes) -> None:
    """The distributed recipe under torchrun with gloo: rank zero logs, once."""
    said = recipes.run("ranks", GLOO, TWO_RANKS, epochs=1, max_steps_per_epoch=2)
    assert not said.startswith("failed"), said
    homes = recipes.homes("ranks")
    homes.assert_equal()
    assert homes.mlflow.status == "FINISHED"
    assert [step for step, _ in homes.points("loss")] == [1, 2]
    assert list(homes.artifacts()) == ["torchtune_model_0"]


def test_another_rank_that_crashes_fails_the_run(recipes: Recipes) -> None:
    """torchrun then ends rank zero: both homes say failed all the same, and no process stays."""
    breaks = {"_component_": f"{TINY}.LossThatBreaks", "at": 2, "rank": 1}
    said = recipes.run("rank1", GLOO, TWO_RANKS, epochs=1, loss=breaks)
    assert said.startswith("failed"), said
    assert "the loss broke" in said
    wait_until(lambda: not recipes.processes("rank1"), 240, "processes stay")
    homes = recipes.homes("rank1")
    homes.assert_equal()
    assert homes.mlflow.status == "FAILED"
    assert [step for step, _ in homes.points("loss")] == [1]
