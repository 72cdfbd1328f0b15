"""A run that was mirrored live and the same run read from MLflow afterwards are equal in W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    FileRef,
    RowObjects,
    RunInfo,
    Selection,
    Series,
)
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.plugins import open_source
from mlflow_wandb_plugin.replicator.mirrored_run import MirroredRunState, apply_operation
from mlflow_wandb_plugin.replicator.pending_uploads import PendingUploads
from tests.store.conftest import Sent

T = 1_700_000_000_000


class Rows:
    """Takes rows in place of the W&B run; an image or a table is the text of its key."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, number: int, document: dict[str, Any]) -> None:
        assert number == len(self.rows)
        self.rows.append(document)

    def log_image(self, number: int, name: rules.ImageName, local: Path, at_ms: int) -> None:
        at = (name.timestamp_ms or at_ms) / 1000
        step = {} if name.step is None else {"mlflow_step": name.step}
        self.log(number, {name.key: "image-file", "_timestamp": at, **step})

    def log_table(self, number: int, key: str, columns: Any, data: Any, at_ms: int) -> None:
        self.log(number, {key: "table-file", "_timestamp": at_ms / 1000})


@pytest.fixture
def run_id(mirrored: str) -> str:
    """A mirrored run with all kinds of content."""
    import numpy as np
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient
    from PIL import Image

    client = MlflowClient()
    mlflow.set_experiment("digits/v1")
    with mlflow.start_run(run_name="n" * 140, tags={"team": "a", "flag": "true"}) as run:
        run_id = str(run.info.run_id)
        mlflow.set_tag("mlflow.note.content", "a note")
        mlflow.log_params({"lr": 0.5, "text": "1e-3", "on": True, "mlflow": "x", "password": "p"})
        for step in range(3):
            metrics = [Metric("loss", 1 / (step + 1), T + step, step)]
            metrics += [Metric("_step", 2.0, T + step, step)]
            client.log_batch(run_id, metrics)
            if step == 1:
                image = Image.new("RGB", (3, 2))
                client.log_image(run_id, image, key="a/b", step=step, timestamp=T + step)
        mlflow.log_table({"c": [1]}, "t.json")
        mlflow.log_text("x", "n.txt")
        mlflow.log_input(mlflow.data.from_numpy(np.zeros(2), name="d s"), "train")
        model = mlflow.initialize_logged_model(name="net", params={"k": "1"})
        mlflow.finalize_logged_model(model.model_id, "READY")
        client.create_registered_model("reg")
        uri = f"models:/{model.model_id}"
        client.create_model_version("reg", uri, run_id, model_id=model.model_id)
        client.set_registered_model_alias("reg", "best", "1")
    return run_id


def test_the_same_in_wandb(run_id: str, mirrored: str, sent: Sent, fresh_process: Path) -> None:
    """Name, notes, tags, config, group, rows, models and datasets, value by value."""
    journal = sent()[run_id]
    state, rows = MirroredRunState(), Rows()
    pending = PendingUploads(run_id, state.lost)
    for operation in journal.operations:
        for row in apply_operation(operation, state, pending, fresh_process / f"{run_id}.files"):
            row(rows, len(rows.rows))  # type: ignore[arg-type]
    live = state.describe(journal.header, {})
    source = open_source(mirrored)
    [listed] = source.runs(Selection())
    items = list(source.read(listed, {}))
    info = [item for item in items if isinstance(item, RunInfo)][-1]

    assert (info.name, info.notes, info.tags) == (live.name, live.notes, live.tags)
    assert info.config == live.config
    assert info.project == journal.header["project"]
    assert info.group == (state.parent or "")
    assert _rows(items) == [_timeless(row) for row in rows.rows]
    artifacts = [item for item in items if isinstance(item, ArtifactRef)]
    [model] = pending.models.values()
    assert [(one.name, one.metadata, set(one.aliases)) for one in artifacts if not one.used] == [
        (rules.artifact_name(model.name), model.metadata, model.aliases)
    ]
    assert [(one.name, one.metadata) for one in artifacts if one.used] == [
        rules.used_dataset(dataset)[:2] for dataset in pending.datasets
    ]
    files = {item.path for item in items if isinstance(item, FileRef)}
    assert {path for path in files if not path.startswith("media/")} == {
        rules.file_path(path) for path in pending.files
    }


def _rows(items: list[Any]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for item in items:
        if isinstance(item, Series):
            for step, at, value in zip(item.steps, item.timestamps_ms, item.values, strict=True):
                row = found.setdefault(step, {"_timestamp": at / 1000})
                row[item.key[0]] = value
        elif isinstance(item, RowObjects):
            row = found.setdefault(item.step, {"_timestamp": item.timestamp_ms / 1000})
            row.update({key[0]: value["_type"] for key, value in item.values.items()})
    return [_timeless(found[step]) for step in sorted(found)]


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its time, if it is that of a table, whose own time MLflow does not keep."""
    timed = "table-file" not in row.values()
    return {key: value for key, value in row.items() if timed or key != "_timestamp"}
