"""Images, tables, models, datasets and traces of MLflow's calls in the W&B run: as the mirror of a
store with `wandb+` has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.live.both_homes import differences, numbers
from tests.support.commands import mlflow_wandb
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer
from tests.wandb_server.state import Run

pytestmark = [pytest.mark.usefixtures("patient"), pytest.mark.slow]

LOGGED = """
import mlflow, numpy, pandas
from matplotlib.figure import Figure

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> list[str]:
        return model_input

@mlflow.trace
def traced(value):
    return value

def log():
    image = numpy.zeros((8, 6, 3), dtype="uint8")
    mlflow.log_metric("early", 1.0)
    mlflow.log_image(image, key="dogs", step=3, timestamp=1_700_000_000_000)
    mlflow.log_image(image, artifact_file="pictures/zero.png")
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    mlflow.log_figure(figure, "figure.png")
    mlflow.log_table({"a": [1, 2], "b": ["x", "y"]}, artifact_file="table.json")
    mlflow.log_text("words", "texts/a.txt")
    mlflow.log_dict({"a": 1}, "b.json")
    data = mlflow.data.from_pandas(pandas.DataFrame({"a": [1, 2]}), name="train")
    mlflow.log_input(data, context="training")
    mlflow.log_input(data, context="training")
    mlflow.pyfunc.log_model(name="mine", python_model=Model(), registered_model_name="registered")
    traced(1)
    mlflow.set_tag("kept", "yes")
    mlflow.set_tag("gone", "yes")
    mlflow.delete_tag("gone")
    mlflow.MlflowClient().set_registered_model_alias("registered", "best", 1)
    mlflow.flush_trace_async_logging()
"""
ACTIVE = (
    LOGGED
    + """
import mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog(mlflow_active=True)
with wandb.init(project="calls", id="active") as run:
    run.log({"loss": 1.0})
    log()
"""
)
MIRRORED = (
    LOGGED
    + """
mlflow.set_tracking_uri("wandb+" + mlflow.get_tracking_uri())
mlflow.set_experiment("mirrored")
with mlflow.start_run():
    log()
"""
)


def media(server: WandbServer, path: str) -> dict[str, Any]:
    """The media values of a run by key, without where their files are; and the row's other values,
    those of steps."""
    found = {}
    for row in numbers(server, path):
        for key, value in row.items():
            if isinstance(value, dict):
                assert value.pop("path") in server.run(path).files
                found[key] = value, row.get("mlflow_step")
    return found


def models(run: Run) -> list[dict[str, Any]]:
    """The model artifacts of a run without what is another in each run."""
    found = []
    for artifact in run.logged_artifacts:
        if artifact.collection.type != "model":
            continue
        metadata = json.loads(artifact.metadata or "{}")
        model_id = metadata.pop("mlflow_model_id")
        tags = metadata.pop("mlflow_tags")
        aliases = {
            alias for alias, one in artifact.collection.aliases.items() if one is artifact
        } | set(artifact.aliases)
        assert model_id in aliases
        assert json.loads(tags["mlflow.modelVersions"]) == [{"name": "registered", "version": 1}]
        found.append({
            "name": artifact.collection.name, "aliases": aliases - {model_id, "latest", "v0"},
            "metadata": metadata, "files": len(artifact.files),
        })  # fmt: skip
    return found


def test_what_mlflows_calls_log_is_in_wandb_as_the_mirror_has_it(
    online: dict[str, str], wandb_server: WandbServer, tmp_path: Path, empty_store: Path
) -> None:
    """The same calls once beside W&B's, once under `wandb+` alone; MLflow has no second copy, and
    a backfill into another MLflow brings images and tables back as MLflow had them."""
    uri = online["MLFLOW_TRACKING_URI"]
    run_script(ACTIVE, online, tmp_path / "work", timeout=240)
    mirror = online | {
        "MLFLOW_WANDB_ACTIVE": "0",
        "MLFLOW_WANDB_MIRROR_WAIT": "120",
        "MLFLOW_TRACKING_URI": copy_store(empty_store, tmp_path / "mirrored.db"),
    }
    run_script(MIRRORED, mirror, tmp_path / "work", timeout=240)
    active = wandb_server.run("calls/active")
    (mirrored_id,) = wandb_server.store.projects["tester", "mirrored"].runs
    mirrored = wandb_server.run(f"mirrored/{mirrored_id}")
    found = media(wandb_server, "calls/active")
    assert found == media(wandb_server, f"mirrored/{mirrored_id}")
    assert {key: (value["_type"], step) for key, (value, step) in found.items()} == {
        "dogs": ("image-file", 3), "pictures/zero.png": ("image-file", None),
        "figure.png": ("image-file", None), "table.json": ("table-file", None),
    }  # fmt: skip
    assert (found["dogs"][0]["width"], found["dogs"][0]["height"]) == (6, 8)
    assert (found["table.json"][0]["nrows"], found["table.json"][0]["ncols"]) == (2, 2)
    assert found.keys() <= active.summary.keys()
    assert models(active) == models(mirrored)
    (model,) = models(active)
    assert (model["name"], model["aliases"]) == ("mine", {"registered-v1", "registered-best"})
    assert model["metadata"]["mlflow_status"] == "READY"
    used, mirrors_used = (
        # What MLflow knows of the source names the W&B run, where there is one.
        [
            (one.collection.name, json.loads(one.metadata or "{}"), len(one.files))
            for one in run.used_artifacts
        ]
        for run in (active, mirrored)
    )
    assert used == mirrors_used
    assert [name for name, _, _ in used] == ["train"]
    section, mirrors = active.values["mlflow_calls"], mirrored.values["mlflow"]
    for name in ("datasets", "traces_not_mirrored"):
        assert section[name] == mirrors[name]
    assert (section["traces_not_mirrored"], section["tags"]) == (1, {"kept": "yes", "gone": None})
    assert active.tags == mirrored.tags == ["kept:yes"]
    assert {"artifacts/texts/a.txt", "artifacts/b.json", "artifacts/table.json"} <= (
        active.files.keys()
    )
    state = read_runs(uri, tmp_path / "there")["active"]
    images = {path for path in state.artifacts if path.startswith("images/dogs+step+3+")}
    own = {path for path in state.artifacts if not path.startswith("wandb/")}
    assert own == images | {
        "pictures/zero.png", "figure.png", "table.json", "texts/a.txt", "b.json",
    }  # fmt: skip
    assert len(images) == 2
    copies = ("wandb/files/media", "wandb/history", "wandb/artifacts", "wandb/lineage", "tables/")
    assert not [path for path in state.artifacts if path.startswith(copies)]
    (folder,) = (tmp_path / "client" / "dir" / "wandb").glob("run-*-active")
    assert differences(folder, uri) == ()
    other = copy_store(empty_store, tmp_path / "other.db")
    done = mlflow_wandb("backfill", str(folder), "--to", other, env=online, cwd=tmp_path)
    assert "1 migrated" in done.stdout, done.stdout + done.stderr
    again = read_runs(other, tmp_path / "again")["active"]
    assert {path: state.artifacts[path] for path in own}.items() <= again.artifacts.items()
    assert not [
        path for path in again.artifacts if "media" in path or path == "wandb/history.jsonl"
    ]
    for tag in ("mlflow.loggedImages", "mlflow.loggedArtifacts"):
        assert again.tags[tag] == state.tags[tag]


def test_the_same_through_a_tracking_server(
    online: dict[str, str], wandb_server: WandbServer, tmp_path: Path, server: str
) -> None:
    """Files, models and versions go to the server by other stores and repositories of MLflow. An
    image that MLflow still logs in a thread of its own when the run ends is there."""
    env = online | {"MLFLOW_TRACKING_URI": server}
    script = ACTIVE.replace("calls", "calls-served").replace('"registered"', '"served"')
    script += '    mlflow.log_image(numpy.zeros((2, 2), dtype="uint8"), key="late", step=9)\n'
    run_script(script, env, tmp_path / "work", timeout=240)
    run = wandb_server.run("calls-served/active")
    assert media(wandb_server, "calls-served/active").keys() == {
        "dogs", "pictures/zero.png", "figure.png", "table.json", "late",
    }  # fmt: skip
    (model,) = [one for one in run.logged_artifacts if one.collection.type == "model"]
    assert {"served-v1", "served-best"} <= {*model.aliases, *model.collection.aliases}
    assert [one.collection.name for one in run.used_artifacts] == ["train"]
    assert run.values["mlflow_calls"]["traces_not_mirrored"] == 1


def test_what_an_offline_run_cannot_take_is_counted(env: dict[str, str], tmp_path: Path) -> None:
    """W&B without a server takes no used artifact and no change of one that is logged; the config
    has the dataset, and the number of such changes."""
    run_script(ACTIVE, env, tmp_path / "work", timeout=240)
    uri = env["MLFLOW_TRACKING_URI"]
    state = read_runs(uri, tmp_path / "there")["active"]
    config = json.loads((tmp_path / "there" / state.run_id / "wandb" / "config.json").read_text())
    section = config["mlflow_calls"]
    assert [one["name"] for one in section["datasets"]] == ["train"]
    assert section["lost"] == {"change of a model that W&B had already": 1}
    (folder,) = (tmp_path / "work" / "wandb").glob("offline-run-*-active")
    assert differences(folder, uri) == ()
