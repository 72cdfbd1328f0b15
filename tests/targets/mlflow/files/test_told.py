"""Captions, alerts and models of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef, RowObjects
from tests.targets.mlflow.writing import document, end, file, opened, run_info, the_run

ALERT = {"title": "high", "text": "it is 7", "level": "WARN"}


def test_alerts_of_all_logs_are_kept(fresh_store: str, tmp_path: Path) -> None:
    """A run that is continued has the alerts of its earlier log, too; none is there twice."""
    later = {"title": "again", "text": "", "level": ""}
    first = run_info(facts={"alerts": [ALERT]})
    with opened(fresh_store, first) as writer:
        end(writer, first)
    second = run_info(facts={"alerts": [ALERT, later]}, segments=("seg", "seg2"))
    with opened(fresh_store, second) as writer:
        end(writer, second)
    run = the_run(fresh_store)
    assert document(fresh_store, run, "wandb/alerts.json", tmp_path) == [ALERT, later]
    assert json.loads(run.tags["wandb.alerts"]) == ["WARN: high", "again"]


@pytest.mark.parametrize("alerts", ["text", [1, None], {"title": "x"}])
def test_alerts_of_an_odd_form_are_none(fresh_store: str, tmp_path: Path, alerts: Any) -> None:
    """An archive may say anything."""
    info = run_info(facts={"alerts": alerts})
    with opened(fresh_store, info) as writer:
        end(writer, info)
    run = the_run(fresh_store, tmp_path / "all")
    assert "wandb.alerts" not in run.tags
    assert "wandb/alerts.json" not in run.artifacts


def test_captions_of_single_and_listed_images(fresh_store: str, tmp_path: Path) -> None:
    """Under the names of the images, also where their files are gone."""
    one = {"_type": "image-file", "path": "a.png", "caption": "<b>one</b>"}
    many = {"_type": "images/separated", "filenames": ["b", "c"], "captions": ["two", None]}
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(1, 10, {("val/one",): one, ("many",): many}))
        end(writer, info)
    captions = document(fresh_store, the_run(fresh_store), "wandb/captions.json", tmp_path)
    named = {path.split("+timestamp")[0]: caption for path, caption in captions.items()}
    assert named == {"images/val~one+step+1": "<b>one</b>", "images/many~0+step+1": "two"}


def model(folder: Path, **fields: Any) -> ArtifactRef:
    entry = ArtifactEntry("w.bin", "", 7, file(folder, "w.bin", "weights"))
    known: dict[str, Any] = {
        "type": "model", "name": "net", "version": "v3", "digest": "0123456789abcdef",
        "metadata": {"acc": 0.5, "nested": {"epochs": 3.0}, "long": "x" * 600, "odd@key": 1,
                     "api_key": "not for all"},
        "entries": (entry,),
    }  # fmt: skip
    return ArtifactRef(**(known | fields))


@pytest.mark.parametrize("way", ["store", "server"])
def test_a_model_is_listed_once(fresh_store: str, server: str, tmp_path: Path, way: str) -> None:
    """However often its run is written; params are those of the metadata that MLflow can hold."""
    uri = fresh_store if way == "store" else server
    info = run_info(run_id=f"model-{way}", project=f"models-{way}")
    for _ in range(2):
        with opened(uri, info) as writer:
            writer.restart(complete=True)
            writer.add(model(tmp_path))
            writer.add(model(tmp_path, name="a/b:c", digest="f" * 16, metadata={}))
            end(writer, info)
    client = MlflowClient(uri)
    found = client.search_logged_models([writer.experiment_id])
    models = {one.name: one for one in found}
    assert len(found) == 2
    assert set(models) == {"net", "a_b_c"}
    assert models["net"].params == {"acc": "0.5", "nested.epochs": "3", "api_key": "***"}
    assert str(models["net"].status) == "READY"
    assert models["net"].tags["wandb.artifact"] == "net:v3"
    folder = models["net"].tags["wandb.files"]
    assert folder == "wandb/artifacts/model/net/0123456789ab"
    assert [item.path for item in client.list_artifacts(writer.run_id, folder)] == [
        f"{folder}/w.bin"
    ]
    outputs = client.get_run(writer.run_id).outputs.model_outputs
    assert {output.model_id for output in outputs} == {one.model_id for one in found}


def test_other_artifacts_are_no_models(fresh_store: str, tmp_path: Path) -> None:
    """Only those of the type ``model``, and none that the run only used."""
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.add(model(tmp_path, type="dataset"))
        writer.add(model(tmp_path, used=True))
        end(writer, info)
    assert MlflowClient(fresh_store).search_logged_models([writer.experiment_id]) == []
