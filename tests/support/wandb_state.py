"""What a loopback W&B server holds of a project, read from its memory with none of our code."""

from __future__ import annotations

import json
from typing import Any

from tests.wandb_server import WandbServer
from tests.wandb_server.parquet import read_rows
from tests.wandb_server.state import Artifact, Project, Run

WRITTEN_BY_CORE = ("config.yaml", "wandb-summary.json")
"""wandb-core writes them anew for each upload."""
OF_THE_REPLICA = ("mlflow_wandb_replica",)
INTERNAL = ("_runtime", "_step", "_timestamp", "_wandb")
"""wandb-core 0.31 leaves ``_step`` out of a summary that is uploaded without rows."""


def project_state(project: Project) -> dict[str, dict[str, Any]]:
    """What a user sees of each run of a project, by the run's id."""
    return {run_id: run_state(run) for run_id, run in project.runs.items()}


def run_state(run: Run) -> dict[str, Any]:
    """Everything of a run that a copy has to have; times of rows in whole milliseconds."""
    state = run.state if run.state in ("finished", "running") else "failed"
    return {
        "name": run.display_name,
        "notes": run.notes or "",
        "tags": sorted(run.tags),
        "group": run.group or "",
        "job_type": run.job_type or "",
        "state": state,
        "config": {key: value for key, value in run.values.items() if key not in OF_THE_REPLICA},
        "summary": {key: value for key, value in run.summary.items() if key not in INTERNAL},
        "rows": [_row(row) for row in rows(run)],
        "system": [_event(line) for line in run.events],
        "files": {
            name: blob.digest for name, blob in run.files.items() if name not in WRITTEN_BY_CORE
        },
        "logged": sorted(map(artifact_state, run.logged_artifacts), key=str),
        "used": sorted(artifact.digest for artifact in run.used_artifacts),
    }


def rows(run: Run) -> list[dict[str, Any]]:
    """The history, exported rows first."""
    exported = [
        row for export in run.history.exports for row in read_rows(export.path, range(export.rows))
    ]
    return [*exported, *(line.row for line in run.history.live)]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key != "_runtime"}
    if "_timestamp" in kept:
        kept["_timestamp"] = int(kept["_timestamp"] * 1000)
    return comparable(kept)


def _event(line: str) -> dict[str, Any]:
    event = json.loads(line)
    kept = {key: value for key, value in event.items() if not key.startswith("_")}
    return {"at_ms": int(event["_timestamp"] * 1000), **comparable(kept)}


def artifact_state(artifact: Artifact) -> dict[str, Any]:
    """An artifact; its version is its place in its collection."""
    named = [alias for alias in artifact.aliases if alias != "latest" and alias[1:] != "0"]
    return {
        "collection": (artifact.collection.type, artifact.collection.name),
        "digest": artifact.digest,
        "place": artifact.collection.versions.index(artifact),
        "aliases": sorted(set(named)),
        "metadata": json.loads(artifact.metadata or "{}"),
        "description": artifact.description or "",
        "files": {key: blob.digest for key, blob in artifact.files.items()},
    }


def comparable(value: Any) -> Any:
    """Text instead of NaN, which equals nothing, and nested keys in one order."""
    if isinstance(value, dict):
        return {key: comparable(below) for key, below in sorted(value.items())}
    if isinstance(value, list):
        return [comparable(below) for below in value]
    return "NaN" if isinstance(value, float) and value != value else value


def differing(
    found: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]
) -> list[tuple[str, str, Any, Any]]:
    """Run, field, found and wanted value of all that differs; readable where it fails."""
    differences = []
    for run_id in sorted(found.keys() | wanted.keys()):
        one, other = found.get(run_id, {}), wanted.get(run_id, {})
        for field in sorted(one.keys() | other.keys()):
            pair = comparable(one.get(field)), comparable(other.get(field))
            if pair[0] != pair[1]:
                differences.append((run_id, field, *_shortest(*pair)))
    return differences


def _shortest(one: Any, other: Any) -> tuple[Any, Any]:
    """Of two lists of one length, the first entries that differ."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return next((a, b) for a, b in zip(one, other, strict=True) if a != b)
    return one, other


def project_of(server: WandbServer, entity: str, name: str) -> Project:
    return server.store.projects[entity, name]
