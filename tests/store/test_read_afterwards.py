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
from mlflow_wandb_plugin.plugins import open_source
from mlflow_wandb_plugin.sources.mlflow.journal_reading import JournalReading, find_start
from tests.store.conftest import Sent

T = 1_700_000_000_000


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
    header = sent()[run_id].header
    path = fresh_process / f"{run_id}.journal"
    start = find_start(path, {}, 0)
    assert start is not None
    live = list(JournalReading(path, header, start, dict, None, whole=False).items())
    source = open_source(mirrored)
    [listed] = source.runs(Selection())
    later = list(source.read(listed, {}))
    first, second = _info(live), _info(later)

    assert (first.name, first.notes, first.tags) == (second.name, second.notes, second.tags)
    assert (first.project, first.group, first.state) == (second.project, second.group, second.state)
    config = {**first.config, "mlflow": {**first.config["mlflow"]}}
    del config["mlflow"]["journal"]
    assert config == second.config
    assert _summary(first) == _summary(second)
    assert _rows(live) == _rows(later)
    assert _artifacts(live) == _artifacts(later)
    assert _files(live) == _files(later)


def _info(items: list[Any]) -> RunInfo:
    return [item for item in items if isinstance(item, RunInfo)][-1]


def _summary(info: RunInfo) -> dict[str, Any]:
    """The summary; media without their paths, which have the number of their row."""
    return {
        key: {name: value[name] for name in value if name != "path"}
        if isinstance(value, dict)
        else value
        for key, value in info.summary.items()
    }


def _artifacts(items: list[Any]) -> list[tuple[Any, ...]]:
    return sorted(
        (
            (item.type, item.name, item.version, item.used, sorted(item.aliases), item.metadata,
             [(entry.path, entry.digest, entry.size) for entry in item.entries])
            for item in items
            if isinstance(item, ArtifactRef)
        ),
        key=str,
    )  # fmt: skip


def _files(items: list[Any]) -> dict[str, bytes]:
    return {
        item.path: item.local.read_bytes()
        for item in items
        if isinstance(item, FileRef) and not item.path.startswith("media/")
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
