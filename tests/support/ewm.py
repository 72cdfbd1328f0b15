"""What export-wandb-to-mlflow's dry run leaves on disk, as that tool writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Point = tuple[Any, int, int]
"""Value, time in ms (the row's number for system metrics), step."""


def write_project(root: Path, name: str, folder: str = "") -> Path:
    """A project's folder with its tags."""
    path = root / (folder or name)
    path.mkdir(parents=True)
    _write_tags(path, {"migrate_from_wandb_project": True, "wandb_project_name": name})
    return path


def write_run(
    project: Path,
    run_id: str,
    *,
    tags: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Iterable[Point]] | None = None,
    system: Mapping[str, Iterable[Point]] | None = None,
    complete: bool = True,
) -> Path:
    """A run's folder. Dots in keys become slashes, dicts in the config JSON text."""
    folder = project / run_id
    folder.mkdir()
    created = {"wandb_run_created_at": "2024-05-01T12:00:00"}
    names = {"wandb_run_name": f"name of {run_id}", "wandb_run_id": run_id}
    _write_tags(folder, {**names, **created, **(tags or {})})
    flat = {
        key: json.dumps(value) if isinstance(value, dict) else value
        for key, value in (config or {}).items()
    }
    (folder / "params.json").write_text(json.dumps(flat))
    for place, tables in (("system_metrics", system), ("metrics", metrics)):
        (folder / place).mkdir()
        for key, points in (tables or {}).items():
            path = folder / place / f"{key.replace('.', '/')}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = (f"{value}, {time}, {step}\n" for value, time, step in points)
            path.write_text("".join(lines))
    if complete:
        _write_tags(folder, {"wandb_migration_complete": True})
    return folder


def _write_tags(folder: Path, tags: Mapping[str, Any]) -> None:
    with open(folder / "tags.csv", "a", encoding="utf-8", newline="") as file:
        file.writelines(f"{key}, {value}\n" for key, value in tags.items())
