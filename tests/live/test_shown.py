"""What a person looks for in MLflow's UI is there by every way: histograms, charts, images in
tables, captions, alerts and models.

One script logs online. It is dual-written, and backfilled from its own log and from W&B's server.
The log of an online run has no files of artifacts any more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin import backfill, verify
from tests.support.commands import wandb_folder
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store
from tests.wandb_server.server import WandbServer

SCRIPT = r"""
import numpy as np
import mlflow_wandb_plugin.wandb as wandb

run = wandb.init(project="shown", id="shown1", tags=["baseline"], group="g")
pixels = np.arange(192, dtype="uint8").reshape(8, 8, 3)
for step in range(3):
    run.log({"gradients/conv1.weight": wandb.Histogram(np_histogram=([step, 2, 3], [0, 1, 2, 3]))})
run.log({"cm": wandb.plot.confusion_matrix(
    y_true=[0, 0, 1, 1], preds=[0, 1, 1, 1], class_names=["cat", "dog"], title="Quality")})
curve = wandb.Table(columns=["x", "y"], data=[[0, 1], [1, 4], [2, 9]])
run.log({"curve": wandb.plot.line(curve, "x", "y", title="Squares")})
run.log({"one": wandb.Image(pixels, caption="a cat"),
         "many": [wandb.Image(pixels, caption="first"), wandb.Image(pixels)]})
table = wandb.Table(columns=["picture", "n"], data=[[wandb.Image(pixels), 1],
                                                    [wandb.Image(pixels // 2), 2]])
run.log({"predictions": table})
run.alert("Loss is <b>high", "it is 7", level="WARN")
run.alert("Ended", "", level="INFO")
model = wandb.Artifact("net", "model", description="d", metadata={"acc": 0.5, "epochs": 3})
with model.new_file("weights.txt") as file:
    file.write("weights")
run.log_artifact(model, aliases=["best"])
run.finish()
"""


@dataclass
class Home:
    """One way by which the run came into MLflow: the store, and the run in it."""

    uri: str
    run: RunState


@dataclass
class Homes:
    dual: Home
    log: Home
    server: Home
    folder: str
    address: str


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Any:
    folder = tmp_path_factory.mktemp("shown")
    uris = {
        name: copy_store(empty_store, folder / f"{name}.db") for name in ("mlflow", "log", "server")
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        WandbServer(tmp_path_factory.mktemp("wandb")) as wandb,
    ):
        env = isolated(
            folder, WANDB_MODE="online", WANDB_API_KEY=wandb.api_key, WANDB_BASE_URL=wandb.url,
            MLFLOW_WANDB_FINISH_TIMEOUT="120", MLFLOW_WANDB_INIT_TIMEOUT="90",
        )  # fmt: skip
        run_script(SCRIPT, env, folder / "work")
        patch.chdir(folder)
        patch.setenv("WANDB_API_KEY", wandb.api_key)
        address = f"wandb+{wandb.url}/tester/shown"
        local = str(wandb_folder(env))
        for source, name in ((local, "log"), (address, "server")):
            (outcome,) = backfill(source, uris[name], dual_written="ignore")
            assert (outcome.action, outcome.reason) == ("migrated", "")
        found = {}
        for name, uri in uris.items():
            (run,) = read_runs(uri, folder / f"files-{name}").values()
            found[name] = Home(uri, run)
        yield Homes(found["mlflow"], found["log"], found["server"], local, address)


@pytest.fixture(params=["dual", "log", "server"])
def home(homes: Homes, request: pytest.FixtureRequest) -> Home:
    return {"dual": homes.dual, "log": homes.log, "server": homes.server}[request.param]


def text_of(home: Home, path: str, folder: Path) -> str:
    found = mlflow.artifacts.download_artifacts(
        run_id=home.run.run_id, artifact_path=path, dst_path=str(folder), tracking_uri=home.uri
    )
    return Path(found).read_text(encoding="utf-8")


def test_pages_are_the_same_by_every_way(homes: Homes) -> None:
    """One page for each histogram and chart, byte by byte equal."""

    def pages(home: Home) -> dict[str, str]:
        folders = ("histograms/", "charts/")
        return {
            path: home.run.artifacts[path]
            for path in home.run.artifacts
            if path.startswith(folders)
        }

    assert set(pages(homes.dual)) == {
        "histograms/gradients/conv1.weight.html", "charts/cm.html", "charts/curve.html",
    }  # fmt: skip
    assert pages(homes.log) == pages(homes.dual)
    assert pages(homes.server) == pages(homes.dual)


def test_pages_show_what_was_logged(home: Home, tmp_path: Path) -> None:
    """The counts of each step, the counts of the matrix, and the titles."""
    page = text_of(home, "histograms/gradients/conv1.weight.html", tmp_path)
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data)["steps"] == [
        {"step": step, "edges": [0, 3], "counts": [step, 2, 3]} for step in range(3)
    ]
    matrix = text_of(home, "charts/cm.html", tmp_path)
    assert "<h1>Quality</h1>" in matrix
    for row in ("cat</th>", "dog</th>"):
        assert row in matrix
    assert "<h1>Squares</h1>" in text_of(home, "charts/curve.html", tmp_path)


@pytest.mark.parametrize("name", ["dual", "server"])
def test_images_in_a_table_are_images(homes: Homes, name: str, tmp_path: Path) -> None:
    """In the form of MLflow's tables, with files that are there."""
    home = homes.dual if name == "dual" else homes.server
    (path,) = [
        one["path"]
        for one in json.loads(home.run.tags["mlflow.loggedArtifacts"])
        if one["path"].startswith("tables/predictions/")
    ]
    table = json.loads(text_of(home, path, tmp_path))
    assert table["columns"] == ["picture", "n"]
    assert [row[1] for row in table["data"]] == [1, 2]
    for row in table["data"]:
        assert row[0]["type"] == "image"
        assert row[0]["filepath"] in home.run.artifacts
        assert row[0]["compressed_filepath"] in home.run.artifacts


def test_captions_name_their_images(home: Home, tmp_path: Path) -> None:
    """By the path of MLflow's step image."""
    captions = json.loads(text_of(home, "wandb/captions.json", tmp_path))
    assert sorted(captions.values()) == ["a cat", "first"]
    assert set(captions) <= set(home.run.artifacts)


def test_alerts_are_a_file_and_a_tag(homes: Homes, tmp_path: Path) -> None:
    """W&B's server does not tell them."""
    for home in (homes.dual, homes.log):
        assert json.loads(text_of(home, "wandb/alerts.json", tmp_path)) == [
            {"title": "Loss is <b>high", "text": "it is 7", "level": "WARN"},
            {"title": "Ended", "text": "", "level": "INFO"},
        ]
        assert json.loads(home.run.tags["wandb.alerts"]) == ["WARN: Loss is <b>high", "INFO: Ended"]
    assert "wandb.alerts" not in homes.server.run.tags


@pytest.mark.parametrize("name", ["dual", "server"])
def test_a_model_artifact_is_a_logged_model(homes: Homes, name: str) -> None:
    """An external model of the run with the metadata as params; its files are the run's."""
    home = homes.dual if name == "dual" else homes.server
    client = MlflowClient(home.uri)
    run = client.get_run(home.run.run_id)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.name, str(model.status), model.source_run_id) == ("net", "READY", home.run.run_id)
    assert model.params == {"acc": "0.5", "epochs": "3"}
    assert model.tags["mlflow.model.isExternal"] == "true"
    assert f"{model.tags['wandb.files']}/weights.txt" in home.run.artifacts
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_the_tags_that_the_ui_lists(home: Home) -> None:
    """Nothing twice, and no bookkeeping."""
    listed = {key for key in home.run.tags if not key.startswith("mlflow.")}
    machine = {f"wandb.{name}" for name in ("host", "os", "python", "executable", "args")}
    machine |= {"wandb.gpu", "wandb.gpu_count", "wandb.cuda", "wandb.docker"}
    told = {"wandb.alerts", "wandb.exit_code", "wandb.url", "wandb.state", "wandb.entity"}
    always = {"wandb.run_id", "wandb.project", "run_group", "wandb.tags"}
    assert always <= listed
    assert listed <= always | machine | told


@pytest.mark.parametrize(
    ("name", "source"),
    [("dual", "folder"), ("log", "folder"), ("server", "folder"), ("dual", "address"),
     ("server", "address")],
)  # fmt: skip
def test_verify_finds_all_of_them_equal(homes: Homes, name: str, source: str) -> None:
    """From either source, whichever way the run came; the log alone lacks files of the server."""
    home = {"dual": homes.dual, "log": homes.log, "server": homes.server}[name]
    (result,) = verify(homes.folder if source == "folder" else homes.address, home.uri)
    assert result.result == "equal", result.differences
