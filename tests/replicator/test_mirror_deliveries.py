"""Journals of mirrored runs arrive in W&B: with the replicator, online, and the real SDK."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.mirrored import START_MS, JournalledRun, forward
from tests.wandb_server import Run, WandbServer
from tests.wandb_server.clients import Worker, environment

MODEL = {"id": "m-1", "name": "model", "type": "sklearn", "params": {"p": "1"}, "tags": {}}
VERSION = {
    "name": "fraud", "version": "1", "model": "m-1", "source": "models:/m-1", "tags": {},
    "description": "", "deleted": False,
}  # fmt: skip
DATASET = {
    "name": "iris", "digest": "d1", "source_type": "local", "source": '{"uri": "x"}',
    "schema": "{}", "profile": "{}", "tags": {"mlflow.data.context": "training"},
}  # fmt: skip
BROKEN_IMAGE = 25
"""Number of the rich run's row that would show an image that nobody can read."""
TABLE = {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture(scope="module")
def outbox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outbox") / "mirror"


@pytest.fixture(scope="module")
def env(wandb: WandbServer, outbox_folder: Path) -> dict[str, str]:
    return environment(wandb, outbox_folder.parent / "private", {"WANDB_MODE": "online"})


def write_rich(folder: Path) -> None:
    """A run with something of everything, its metrics in no order of step or time."""
    run = JournalledRun(folder, "rich", entity="")
    run.create(
        "a rich run", team="vision", best="true", gone="soon",
        **{
            "mlflow.note.content": "A *note*", "mlflow.parentRunId": "the-parent",
            "mlflow.source.name": "train.py", "mlflow.source.git.commit": "abc123",
        },
    )  # fmt: skip
    run.points(20)
    run.batch(
        ("loss", math.nan, START_MS + 7, 3), ("a/b.c", math.inf, START_MS + 7, 3),
        ("loss", -math.inf, START_MS - 5000, -1),
        params={"lr": "0.1", "n": "3", "text": "some text"},
    )  # fmt: skip
    run.batch(("system/cpu_utilization_percentage", 12.5, START_MS + 99, 0))
    run.op("untag", key="gone")
    run.file("data/notes.txt", b"hello")
    run.file("data/notes.txt", b"hello again")
    run.file("data/dropped.txt", b"gone")
    run.op("unfile", path="data/dropped.txt", model=None)
    run.file("requirements.txt", b"mine")
    image = f"images/dog~x+step+3+timestamp+{START_MS + 123}+uuid"
    run.file(f"{image}.png", png())
    run.file(f"{image}+compressed.webp", b"small")
    run.file("plot.png", png())
    run.file("broken.png", b"no image")
    run.file("table.json", json.dumps(TABLE).encode())
    run.op("model", **MODEL, status="PENDING")
    run.file("MLmodel", b"flavor", model="m-1")
    run.file("data/model.pkl", b"weights", model="m-1")
    run.op("model", **MODEL, status="READY")
    run.op("outputs", models=[["m-1", 5]])
    run.op("version", **VERSION, aliases=["champion"])
    run.op("inputs", datasets=[DATASET], models=["m-0"])
    run.op("trace", count=2)
    run.op("lost", what="artifact", count=1)
    run.end()


@pytest.fixture(scope="module")
def rich(wandb: WandbServer, outbox_folder: Path, env: dict[str, str]) -> Run:
    write_rich(outbox_folder)
    forward(outbox_folder, env, outbox_folder.parent)
    return wandb.run("mirrored/rich")


def rows(run: Run, missing: int = -1) -> list[dict[str, Any]]:
    """The rows as they came, without what wandb-core adds; their step is their number, and the
    number ``missing`` is that of no row."""
    found = [dict(line.row) for line in run.history.live]
    count = len(found) + (missing >= 0)
    steps = [number for number in range(count) if number != missing]
    assert [row.pop("_step") for row in found] == steps
    for row in found:
        del row["_runtime"]
    return found


def test_metrics_arrive_with_their_steps_and_times(rich: Run) -> None:
    """Metrics arrive in any order of steps, with NaN and infinities and system metrics."""
    found = rows(rich, BROKEN_IMAGE)
    expected: list[dict[str, Any]] = [
        {"loss": 1 / (i + 1), "mlflow_step": i, "_timestamp": START_MS / 1000 + i}
        for i in range(20)
    ]
    assert found[:20] == expected
    assert math.isnan(found[20].pop("loss"))
    assert found[20:23] == [
        {"a/b.c": math.inf, "mlflow_step": 3, "_timestamp": (START_MS + 7) / 1000},
        {"loss": -math.inf, "mlflow_step": -1, "_timestamp": START_MS / 1000 - 5},
        {
            "system/cpu_utilization_percentage": 12.5, "mlflow_step": 0,
            "_timestamp": (START_MS + 99) / 1000,
        },
    ]  # fmt: skip


def test_the_run_is_described_as_in_mlflow(rich: Run) -> None:
    """W&B has the name, notes, tags, parent's group, program, commit, params and state."""
    assert (rich.display_name, rich.notes, rich.group) == ("a rich run", "A *note*", "the-parent")
    assert sorted(rich.tags) == ["best", "team:vision"]
    assert (rich.program, rich.commit) == ("train.py", "abc123")
    assert (rich.state, rich.exit_code) == ("finished", 0)
    assert {key: rich.values[key] for key in ("lr", "n", "text")} == {
        "lr": 0.1, "n": 3, "text": "some text",
    }  # fmt: skip
    about = rich.values["mlflow"]
    assert (about["user"], about["status"], about["experiment"]) == ("ann", "FINISHED", "Exp")
    assert (about["start_time"], about["parent_run_id"]) == (START_MS, "the-parent")
    assert about["tags"]["team"] == "vision"
    assert about["tags"].get("gone") is None
    assert about["input_models"] == ["m-0"]


def test_the_config_names_the_mlflow_run(rich: Run) -> None:
    """The config has the keys by which a backfill of the project recognises the run."""
    assert rich.values["mlflow_run_id"] == "rich"
    assert rich.values["mlflow_experiment_id"] == "7"
    assert rich.values["mlflow_tracking_uri"] == "sqlite:///somewhere.db"


def test_files_arrive_and_none_of_the_replicators_own(rich: Run) -> None:
    """The latest content of each file is below artifacts/, and the replicator adds no files."""
    files = {name: blob.path.read_bytes() for name, blob in rich.files.items()}
    ours = {name: files[name] for name in files if name.startswith("artifacts/")}
    image = f"artifacts/images/dog~x+step+3+timestamp+{START_MS + 123}+uuid"
    assert ours == {
        "artifacts/data/notes.txt": b"hello again",
        "artifacts/requirements.txt": b"mine",
        f"{image}.png": png(),
        f"{image}+compressed.webp": b"small",
        "artifacts/plot.png": png(),
        "artifacts/broken.png": b"no image",
        "artifacts/table.json": json.dumps(TABLE).encode(),
    }
    assert not {"requirements.txt", "output.log", "wandb-metadata.json"} & files.keys()
    assert rich.events == []
    assert rich.console == []


def test_images_and_tables_are_media(rich: Run) -> None:
    """A step image has its step and time; an unreadable image has a number and no row."""
    dog, plot, table = rows(rich, BROKEN_IMAGE)[23:26]
    assert (dog["mlflow_step"], dog["_timestamp"]) == (3, (START_MS + 123) / 1000)
    assert rich.files[dog["dog/x"]["path"]].path.read_bytes() == png()
    assert plot["plot.png"]["_type"] == "image-file"
    content = json.loads(rich.files[table["table.json"]["path"]].path.read_text())
    assert (content["columns"], content["data"]) == (TABLE["columns"], TABLE["data"])
    assert len(rich.history.live) == 26


def test_a_logged_model_is_an_artifact(wandb: WandbServer, rich: Run) -> None:
    """It has type model, the files and MLflow's metadata; registered versions are aliases."""
    model = wandb.artifact("mirrored/model:fraud-v1")
    assert model is wandb.artifact("mirrored/model:fraud-champion")
    assert model is wandb.artifact("mirrored/model:m-1")
    assert (model.collection.type, model.created_by) == ("model", rich)
    metadata = json.loads(model.metadata or "{}")
    assert (metadata["mlflow_model_id"], metadata["mlflow_model_type"]) == ("m-1", "sklearn")
    assert (metadata["mlflow_params"], metadata["mlflow_steps"]) == ({"p": "1"}, [5])
    assert {blob.path.read_bytes() for blob in model.files.values()} == {b"flavor", b"weights"}


def test_a_dataset_is_a_used_artifact(rich: Run) -> None:
    """Its content is MLflow's description of it, which the config has, too."""
    (dataset,) = rich.used_artifacts
    assert (dataset.collection.name, dataset.collection.type) == ("iris", "dataset")
    (content,) = (json.loads(blob.path.read_bytes()) for blob in dataset.files.values())
    assert content == DATASET
    assert rich.values["mlflow"]["datasets"][0]["digest"] == "d1"


def test_losses_are_counted(rich: Run, outbox_folder: Path) -> None:
    """Losses of the writer, images and traces are in W&B's config and in the status file."""
    lost = {"artifact": 1, "image not shown (UnidentifiedImageError)": 1}
    assert rich.values["mlflow"]["lost"] == lost
    assert rich.values["mlflow"]["traces_not_mirrored"] == 2
    status = json.loads((outbox_folder / "rich.status").read_text())
    assert status["losses"] == lost | {"traces (W&B has no place for them)": 2}
    assert (status["state"], status["rows"]) == ("complete", 27)


def test_a_delivered_journal_and_its_files_are_gone(rich: Run, outbox_folder: Path) -> None:
    """Only the status file of a delivered run is left."""
    left = {path.name for path in outbox_folder.iterdir() if path.name.startswith("rich")}
    assert left == {"rich.status"}


def test_the_public_api_reads_the_same(wandb: WandbServer, rich: Run, tmp_path: Path) -> None:
    """`wandb.Api` returns what the server was sent."""
    with Worker(wandb, tmp_path / "reader") as reader:
        seen = reader.call(
            """
            import wandb
            run = wandb.Api().run("mirrored/rich")
            artifact = wandb.Api().artifact("mirrored/model:fraud-champion")
            scanned = list(run.scan_history(use_cache=False))
            result = {
                "name": run.name, "state": run.state, "lr": run.config["lr"], "rows": len(scanned),
                "steps": [row.get("mlflow_step") for row in scanned][:20], "type": artifact.type,
                "files": sorted(artifact.manifest.entries),
                "used": [a.name for a in run.used_artifacts()],
            }
            """
        )
    assert seen == {
        "name": "a rich run", "state": "finished", "lr": 0.1, "rows": 26,
        "steps": list(range(20)), "type": "model", "files": ["MLmodel", "data/model.pkl"],
        "used": ["iris:v0"],
    }  # fmt: skip


def test_a_run_goes_on_after_its_journal_was_removed(
    wandb: WandbServer, outbox_folder: Path, env: dict[str, str]
) -> None:
    """Row numbers continue; tags, aliases and files change; the state is MLflow's."""
    first = JournalledRun(outbox_folder, "on", project="onward")
    first.create("on", team="x")
    first.points(5)
    first.file("a/b.txt", b"b")
    first.op("model", **MODEL, status="READY")
    first.file("MLmodel", b"flavor", model="m-1")
    first.op("version", **VERSION, aliases=["champion"])
    first.op("lost", what="file", count=1)
    first.end("FAILED")
    forward(outbox_folder, env, outbox_folder.parent)
    run = wandb.run("onward/on")
    assert (run.state, run.exit_code, len(run.history.live)) == ("failed", 1, 5)

    later = JournalledRun(outbox_folder, "on", project="onward")
    later.points(3, start=5)
    later.op("untag", key="team")
    later.op("unfile", path="a", model=None)
    later.op("alias", name="fraud", alias="champion", version=None)
    later.op("alias", name="fraud", alias="best", version="1")
    later.op("lost", what="file", count=1)
    later.close()
    forward(outbox_folder, env, outbox_folder.parent)
    assert [row["loss"] for row in rows(run)] == [1 / (i + 1) for i in range(8)]
    assert (run.state, run.exit_code, run.tags, run.display_name) == ("failed", 1, [], "on")
    assert [name for name in run.files if name.startswith("artifacts")] == []
    assert run.values["mlflow"]["lost"] == {"file": 2}
    collection = wandb.project("onward").collections["model"]
    assert set(collection.aliases) == {"latest", "m-1", "fraud-v1", "fraud-best"}
    assert len(collection.versions) == 1


def test_a_model_that_gets_a_file_later_is_a_new_version_with_all_files(
    wandb: WandbServer, outbox_folder: Path, env: dict[str, str], tmp_path: Path
) -> None:
    """Its earlier files are in W&B alone by then; its aliases move."""
    first = JournalledRun(outbox_folder, "grown", project="grown")
    first.create("grown")
    first.op("model", **MODEL, status="READY")
    first.file("MLmodel", b"flavor", model="m-1")
    first.op("version", **VERSION, aliases=["champion"])
    first.end()
    forward(outbox_folder, env, outbox_folder.parent)
    later = JournalledRun(outbox_folder, "grown", project="grown")
    later.file("more/extra.txt", b"extra", model="m-1")
    later.op("outputs", models=[["m-1", 9]])
    later.close()
    forward(outbox_folder, env, outbox_folder.parent)
    collection = wandb.project("grown").collections["model"]
    assert len(collection.versions) == 2
    newest = collection.versions[-1]
    assert set(newest.aliases) >= {"latest", "m-1", "fraud-v1", "fraud-champion"}
    metadata = json.loads(newest.metadata or "{}")
    assert (metadata["mlflow_params"], metadata["mlflow_steps"]) == ({"p": "1"}, [9])
    with Worker(wandb, tmp_path / "reader") as reader:
        found = reader.call(
            """
            import pathlib, wandb
            folder = wandb.Api().artifact("grown/model:m-1").download()
            files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
            result = {str(path.relative_to(folder)): path.read_text() for path in files}
            """
        )
    assert found == {"MLmodel": "flavor", "more/extra.txt": "extra"}


def test_each_ending_has_its_state(
    wandb: WandbServer, outbox_folder: Path, env: dict[str, str]
) -> None:
    """A run finishes, fails or is killed; a script that dies without ending it is killed."""
    for status in ("FINISHED", "FAILED", "KILLED", "died"):
        run = JournalledRun(outbox_folder, status.lower(), project="endings")
        run.create()
        run.points(2)
        run.close() if status == "died" else run.end(status)
    deleted = JournalledRun(outbox_folder, "deleted", project="endings")
    deleted.create()
    deleted.op("delete")
    deleted.end()
    forward(outbox_folder, env, outbox_folder.parent)
    runs = wandb.project("endings").runs
    assert {name: (run.state, run.exit_code) for name, run in runs.items()} == {
        "finished": ("finished", 0), "failed": ("failed", 1), "killed": ("failed", 255),
        "died": ("failed", 255), "deleted": ("finished", 0),
    }  # fmt: skip
    assert runs["deleted"].tags == ["mlflow-deleted"]
    assert runs["deleted"].values["mlflow"]["lifecycle_stage"] == "deleted"
