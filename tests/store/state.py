"""All that an MLflow store holds, in a form that two runs of one program have in common."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

from tests.support.mlflow_features import EXPERIMENTS_OF_TRACES, IS_3_1

NOW_MS = 10**12
"""Later times are MLflow's own, and differ; the program's are small numbers."""

_CHANGING = [
    (re.compile(r"\b(?:m|tr)-[0-9a-f]{32}\b|\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"\b[0-9a-z][0-9a-f]{7}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\.\d+"), "<time>"),
    (re.compile(r"timestamp[+%]\d+"), "timestamp+<ms>"),
    (re.compile(r"(?:file://)?/[\w./-]*?/(artifacts|mlruns)/(?=[\d<])"), "<root>/"),
    (re.compile(r"mlflow-artifacts:/+"), "<root>/"),
]


@contextlib.contextmanager
def pointing_at(uri: str, folder: Path) -> Iterator[None]:
    """MLflow's own URI is ``uri`` and the current folder ``folder``, for what asks for no other."""
    before, variable = Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI")
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("MLFLOW_TRACKING_URI")
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable


def steady(text: str) -> str:
    """``text`` without the ids, times and places that change from run to run."""
    for pattern, stands_for in _CHANGING:
        text = pattern.sub(stands_for, text)
    return text


def read_state(uri: str, folder: Path) -> dict[str, Any]:
    """Everything but what is MLflow's own chance: ids, times, where artifacts lie.

    Args:
        folder: an empty one, for downloads.
    """
    client = MlflowClient(uri)
    experiments = client.search_experiments(view_type=ViewType.ALL)
    names = {
        run.info.run_id: run.info.run_name
        for experiment in experiments
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    }
    return {
        "experiments": {e.name: (e.lifecycle_stage, dict(e.tags)) for e in experiments},
        "runs": {
            f"{experiment.name}: {run.info.run_name}": _run(client, run, names, folder)
            for experiment in experiments
            for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
        },
        "models": dict(_models(client, experiments, names, folder)),
        "registry": {model.name: _registered(client, model) for model in _all(client)},
        "traces": _traces(client, experiments),
    }


def _outputs(run: Any) -> list[Any]:
    """The models that a run logged; MLflow 3.1 has None in place of no outputs."""
    return run.outputs.model_outputs if run.outputs else []


def _run(client: MlflowClient, run: Any, names: dict[str, str], folder: Path) -> dict[str, Any]:
    info, data = run.info, run.data
    history = {key: _points(client, info.run_id, key) for key in data.metrics}
    if info.run_name == "system":
        # How often a monitor thread wakes is chance.
        history = {key: [] for key in history if key.startswith("system/")} | {
            key: points for key, points in history.items() if not key.startswith("system/")
        }
    tags = {
        key: value
        for key, value in data.tags.items()
        if not key.startswith(("wandb.", "mlflow.wandb."))
    }
    parent = tags.get("mlflow.parentRunId")
    if parent:
        tags["mlflow.parentRunId"] = names[parent]
    return {
        "status": info.status,
        "stage": info.lifecycle_stage,
        "times": [_time(info.start_time), info.end_time and _time(info.end_time)],
        "params": dict(data.params),
        "tags": {key: steady(value) for key, value in tags.items()},
        "metrics": history,
        "latest": {} if info.run_name == "system" else {
            key: str(value) for key, value in data.metrics.items()
        },
        "inputs": [
            (d.dataset.name, d.dataset.digest, d.dataset.source_type, steady(d.dataset.source),
             d.dataset.schema, d.dataset.profile, sorted((t.key, t.value) for t in d.tags))
            for d in run.inputs.dataset_inputs
        ],
        "models": [len(run.inputs.model_inputs), [m.step for m in _outputs(run)]],
        "files": _files(client.download_artifacts, client.list_artifacts, info.run_id, folder),
    }  # fmt: skip


def _points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, Any, str]]:
    history = client.get_metric_history(run_id, key)
    return sorted((m.step, _time(m.timestamp), _number(m.value)) for m in history)


def _number(value: float) -> str:
    return "nan" if math.isnan(value) else repr(value)


def _time(ms: int) -> str:
    return "now" if ms > NOW_MS else str(ms)


def _models(
    client: MlflowClient, experiments: Any, names: dict[str, str], folder: Path
) -> Iterator[tuple[str, Any]]:
    found = client.search_logged_models([experiment.experiment_id for experiment in experiments])
    for model in found:
        yield (
            model.name,
            {
                "run": names.get(model.source_run_id or "", ""),
                # Over HTTP, plain MLflow gives "" for no type.
                "type": model.model_type or None,
                "status": str(model.status),
                "params": dict(model.params),
                "tags": {key: _model_tag(key, value) for key, value in model.tags.items()},
                "metrics": sorted((m.key, m.value, m.step) for m in model.metrics or ()),
                "files": _model_files(model, folder),
            },
        )


def _model_tag(key: str, value: str) -> str:
    if key == "mlflow.modelVersions":
        # Over HTTP, plain MLflow lists a version twice, as a number and as text.
        value = str(sorted({(one["name"], int(one["version"])) for one in json.loads(value)}))
    return steady(value)


def _model_files(model: Any, folder: Path) -> dict[str, str]:
    import mlflow

    target = folder / model.model_id
    target.mkdir(parents=True)
    uri = f"models:/{model.model_id}"
    return hashed(Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(target))))


def _all(client: MlflowClient) -> Any:
    return client.search_registered_models()


def _registered(client: MlflowClient, model: Any) -> dict[str, Any]:
    versions = client.search_model_versions(f"name = '{model.name}'")
    return {
        "aliases": {alias: str(version) for alias, version in model.aliases.items()},
        "tags": dict(model.tags),
        "versions": {
            str(v.version): (steady(v.source), v.status, dict(v.tags), v.description)
            for v in versions
        },
    }


def _traces(client: MlflowClient, experiments: Any) -> list[Any]:
    active = [e.experiment_id for e in experiments if e.lifecycle_stage == "active"]
    # A server of MLflow 3.1 does not keep the spans, and its client asks for them for minutes.
    found = client.search_traces(**{EXPERIMENTS_OF_TRACES: active}, include_spans=not IS_3_1)
    return [_trace(trace) for trace in found]


def _trace(trace: Any) -> Any:
    spans = [(span.name, str(span.status.status_code), span.inputs, span.outputs)
             for span in trace.data.spans]  # fmt: skip
    return str(trace.info.state), sorted(trace.info.trace_metadata), spans


def _files(download: Any, listing: Any, run_id: str, folder: Path) -> dict[str, str]:
    if not listing(run_id):
        return {}
    target = folder / run_id
    target.mkdir(parents=True)
    return hashed(Path(download(run_id, "", str(target))))


def hashed(root: Path) -> dict[str, str]:
    """The digest of each file below ``root`` by its steady path; text without what changes."""
    return {
        steady(file.relative_to(root).as_posix()): digest(file)
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def digest(file: Path) -> str:
    """The digest of a file's content, without what changes from run to run if it is text."""
    content = file.read_bytes()
    try:
        content = steady(content.decode()).encode()
    except UnicodeDecodeError:
        pass
    return hashlib.sha256(content).hexdigest()


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two states differ, leaf by leaf."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            found
            for key in sorted(ours.keys() | theirs.keys(), key=str)
            for found in differences(ours.get(key), theirs.get(key), f"{where} / {key}")
        ]
    return [] if ours == theirs else [f"{where}: {ours!r} and not {theirs!r}"]
