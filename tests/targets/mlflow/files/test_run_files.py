"""Artifacts, history values and documents of a run."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow import MlflowClient

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef, FileRef, RowObjects
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import (
    document,
    downloaded,
    end,
    file,
    losses,
    opened,
    run_info,
    the_run,
    write,
)

# -- artifacts ----------------------------------------------------------------------------------


def test_an_artifact_arrives_with_what_describes_it(
    fresh_store: str, local: Path, tmp_path: Path
) -> None:
    """Files are below type, name and digest; references and metadata are in a JSON document."""
    artifact = ArtifactRef(
        type="model", name="net", version="v7", digest="0123456789abcdef", aliases=("best",),
        metadata={"epoch": 3},
        entries=(
            ArtifactEntry("w/a.bin", "d1", 7, local=file(local, "staged", "weights")),
            ArtifactEntry("remote.bin", "d2", 9, ref="s3://bucket/x"),
        ),
    )  # fmt: skip
    write(fresh_store, artifact)
    run = the_run(fresh_store)
    base = "wandb/artifacts/model/net/0123456789ab"
    assert downloaded(fresh_store, run, f"{base}/w/a.bin", tmp_path).read_text() == "weights"
    told = document(fresh_store, run, f"{base}.json", tmp_path)
    assert (told["digest"], told["aliases"], told["metadata"]) == (
        "0123456789abcdef",
        ["best"],
        {"epoch": 3},
    )
    assert told["entries"][1] == {
        "path": "remote.bin", "digest": "d2", "size": 9, "ref": "s3://bucket/x",
    }  # fmt: skip
    assert losses(fresh_store) == {}


def test_an_artifact_whose_files_are_gone_is_counted_by_file(fresh_store: str, local: Path) -> None:
    """Missing files of an artifact are counted, and its description is written."""
    entries = (
        ArtifactEntry("a", "d", 1, local=local / "cleaned"),
        ArtifactEntry("b", "d", 1),
        ArtifactEntry("c", "d", 1, local=file(local, "c")),
    )
    write(fresh_store, ArtifactRef("dataset", "set", "v", entries=entries))
    assert losses(fresh_store) == {"artifact_file_missing": 2}


def test_an_artifacts_name_cannot_leave_its_folder(fresh_store: str, local: Path) -> None:
    """Types, names and paths cannot lead out of the artifact's folder."""
    entry = ArtifactEntry("../../../x", "d", 1, local=file(local, "x"))
    write(fresh_store, ArtifactRef("../up", "a/b", "..", entries=(entry,)))
    run_id = the_run(fresh_store).run_id
    client, found, folders = MlflowClient(fresh_store), [], ["wandb/artifacts"]
    while folders:
        for item in client.list_artifacts(run_id, folders.pop()):
            (folders if item.is_dir else found).append(item.path)
    assert len(found) == 2
    assert losses(fresh_store) == {}


def test_used_artifacts_are_inputs(fresh_store: str, tmp_path: Path) -> None:
    """A used artifact is once in the lineage document and once an input in MLflow."""
    used = ArtifactRef("dataset", "mnist", "v3", used=True)
    write(fresh_store, used, used)
    run = the_run(fresh_store)
    expected = {"type": "dataset", "name": "mnist", "version": "v3"}
    assert document(fresh_store, run, "wandb/lineage.json", tmp_path) == [expected]
    (found,) = MlflowClient(fresh_store).get_run(run.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("mnist", "v3")


# -- what rows hold beside numbers --------------------------------------------------------------


def test_history_lines_hold_exactly_what_was_logged(fresh_store: str, tmp_path: Path) -> None:
    """The history file has one line per row, with all line breaks, nested values and null."""
    odd = "a\u2028b\x85c\rd\ne"
    write(
        fresh_store,
        RowObjects(1, 10, {("text",): odd, ("n", "x"): None}),
        RowObjects(2, 20, {("list",): [1, "two"]}),
        RowObjects(1, 10, {("text",): odd, ("n", "x"): None}),
    )
    rows = document(fresh_store, the_run(fresh_store), "wandb/history.jsonl", tmp_path)
    assert rows == [
        {"_step": 1, "_timestamp_ms": 10, "text": odd, "n": {"x": None}},
        {"_step": 2, "_timestamp_ms": 20, "list": [1, "two"]},
    ]


def test_documents_of_an_earlier_session_are_kept(fresh_store: str, tmp_path: Path) -> None:
    """A run that is resumed on another machine keeps the documents of the first one."""
    info = run_info(config={"a": 1}, summary={"x": 1})
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(1, 10, {("t",): "one"}))
        writer.add(ArtifactRef("dataset", "one", "v1", used=True))
        end(writer, info)
    later = run_info(config={"b": 2}, summary={"x": 5}, segments=("seg", "seg2"))
    with opened(fresh_store, later) as writer:
        writer.add(RowObjects(2, 20, {("t",): "two"}))
        writer.add(ArtifactRef("dataset", "two", "v1", used=True))
        end(writer, later)
    run = the_run(fresh_store)
    rows = document(fresh_store, run, "wandb/history.jsonl", tmp_path)
    assert [row["t"] for row in rows] == ["one", "two"]
    assert document(fresh_store, run, "wandb/config.json", tmp_path) == {"a": 1, "b": 2}
    assert document(fresh_store, run, "wandb/summary.json", tmp_path) == {"x": 5}
    lineage = document(fresh_store, run, "wandb/lineage.json", tmp_path)
    assert [entry["name"] for entry in lineage] == ["one", "two"]


# -- of MLflow's calls --------------------------------------------------------------------------


def test_files_of_mlflows_calls_come_back_where_they_were(
    fresh_store: str, local: Path, tmp_path: Path
) -> None:
    """A run of another MLflow gets them at their own path, never in place of our documents; the
    run that they were logged to has them. Without the config key they are files like others."""
    calls = {"mlflow_calls": {"active": True}}
    files = ["artifacts/notes/a.txt", "artifacts/wandb/config.json", "output.log"]
    for run_id, config in (("elsewhere", calls), ("none", {})):
        with opened(fresh_store, run_info(run_id=run_id, config=config)) as writer:
            for name in files:
                writer.add(FileRef(name, file(local, f"{run_id}-{name}".replace("/", "-"), name)))
            end(writer, run_info(run_id=run_id, config=config))
    found = read_runs(fresh_store, tmp_path / "found")
    kept = "wandb/files/artifacts/wandb/config.json"
    assert {"notes/a.txt", kept, "wandb/files/output.log"} <= found["elsewhere"].artifacts.keys()
    assert "wandb/files/artifacts/notes/a.txt" in found["none"].artifacts
    there = calls | {"mlflow_run_id": found["elsewhere"].run_id}
    info = run_info(run_id="elsewhere", config=there)
    with opened(fresh_store, info) as writer:
        writer.add(FileRef("artifacts/late.txt", file(local, "late", "late")))
        model = ArtifactRef(
            "model", "net", "v0", metadata={"mlflow_model_id": "m-1"},
            entries=(ArtifactEntry("MLmodel", "d", 1, local=file(local, "MLmodel")),),
        )  # fmt: skip
        writer.add(model)
        end(writer, info)
    again = read_runs(fresh_store, tmp_path / "again")["elsewhere"].artifacts
    assert not [path for path in again if "late" in path or "MLmodel" in path]


def test_media_of_mlflows_calls_are_the_files_that_they_show(
    fresh_store: str, local: Path, tmp_path: Path
) -> None:
    """A run of another MLflow shows them at their own path; no copy of them is written, nor a line
    of the document of rows. A dataset that they used is no W&B input of the run."""
    info = run_info(run_id="elsewhere", config={"mlflow_calls": {"active": True}})
    media = "media/mlflow_calls"
    image = {"_type": "image-file", "path": f"{media}/images/dogs_1_abc.png"}
    table = {"_type": "table-file", "path": f"{media}/table/t/a.json_2_abc.table.json"}
    with opened(fresh_store, info) as writer:
        for value in (image, table):
            writer.add(FileRef(value["path"], file(local, value["path"].replace("/", "-"))))
        writer.add(RowObjects(1, 1000, {("dogs",): image}))
        writer.add(RowObjects(2, 2000, {("t/a.json",): table, ("own",): "text"}))
        end(writer, info)
    found = read_runs(fresh_store, tmp_path / "found")["elsewhere"]
    assert not [path for path in found.artifacts if "media" in path or "tables" in path]
    assert found.tags["mlflow.loggedImages"] == "True"
    assert json.loads(found.tags["mlflow.loggedArtifacts"]) == [
        {"path": "t/a.json", "type": "table"}
    ]
    lines = (tmp_path / "found" / found.run_id / "wandb" / "history.jsonl").read_text()
    assert json.loads(lines) == {"_step": 2, "_timestamp_ms": 2000, "own": "text"}
    section = {"active": True, "used": ["train:v0"]}
    here = run_info(run_id="here", config={"mlflow_calls": section})
    with opened(fresh_store, here) as writer:
        run_id = writer.run_id
        end(writer, here)
    here = run_info(run_id="here", config={"mlflow_calls": section, "mlflow_run_id": run_id})
    with opened(fresh_store, here) as writer:
        for name, version in (("train", "v0"), ("train", "v3")):
            writer.add(ArtifactRef("dataset", name, version, used=True))
        metadata = {"mlflow_digest": "d"}
        writer.add(ArtifactRef("dataset", "train", "v0", metadata=metadata))
        end(writer, here)
    again = read_runs(fresh_store, tmp_path / "again")["here"]
    lineage = (tmp_path / "again" / again.run_id / "wandb" / "lineage.json").read_text()
    assert [one["version"] for one in json.loads(lineage)] == ["v3"]
    assert not [path for path in again.artifacts if path.startswith("wandb/artifacts")]
