"""Read the journals that a mirrored store has left in its outbox."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.locks import file_lock
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.reader import JournalReader, read_header


@dataclass
class JournalContent:
    """The content of one run's journal."""

    header: dict[str, Any]
    operations: list[dict[str, Any]]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[float, int, int]]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    model_files: dict[str, dict[str, Path]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str | None] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""
    status: str = "RUNNING"
    end_time: int | None = None
    deleted: bool = False
    traces: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def of(self, op: str) -> list[dict[str, Any]]:
        """The operations of one kind."""
        return [operation for operation in self.operations if operation["op"] == op]


def read_outbox(folder: Path) -> dict[str, JournalContent]:
    """All runs in ``folder`` by run id.

    Raises:
        AssertionError: a journal is damaged.
    """
    return {
        path.stem: read_journal(path) for path in sorted(folder.glob(f"*{frames.SUFFIX}"))
    }  # fmt: skip


def read_journal(path: Path) -> JournalContent:
    reader = JournalReader(path)
    operations = [operation for _, operation in outbox.operations(reader)]
    reader.finish()
    assert not reader.unreadable, reader.unreadable
    run = JournalContent(read_header(path), operations)
    for operation in operations:
        _apply(run, operation, path.with_suffix(".files"))
    return run


def _apply(run: JournalContent, operation: dict[str, Any], files: Path) -> None:
    op = operation["op"]
    if op == "create":
        run.name, run.tags = operation["name"], run.tags | operation["tags"]
    elif op == "batch":
        for key, value, timestamp, step in operation["metrics"]:
            run.metrics.setdefault(key, []).append((value, timestamp, step))
        run.params |= operation["params"]
        run.tags |= operation["tags"]
    elif op == "untag":
        run.tags.pop(operation["key"], None)
    elif op == "update":
        run.name = operation["name"] or run.name
        run.status = operation["status"] or run.status
        run.end_time = operation["end_time"] or run.end_time
    elif op in ("delete", "restore"):
        run.deleted = op == "delete"
    elif op == "inputs":
        run.datasets += operation["datasets"]
    elif op == "file":
        model = operation["model"]
        where = run.files if model is None else run.model_files.setdefault(model, {})
        where[operation["path"]] = files / operation["file"]
    elif op == "unfile":
        run.files.pop(operation["path"], None)
    elif op == "model":
        run.models[operation["id"]] = operation
    elif op == "version":
        run.versions[operation["name"], operation["version"]] = operation
    elif op == "alias":
        run.aliases[operation["name"], operation["alias"]] = operation["version"]
    elif op == "trace":
        run.traces += operation["count"]
    elif op == "lost":
        run.lost[operation["what"]] += operation["count"]


@contextlib.contextmanager
def no_replicator(folder: Path) -> Iterator[Path]:
    """Hold the lock of the folder's replicator, so that none delivers from ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / outbox.DELIVERY_LOCK, patience_s=30) as locked:
        assert locked
        yield folder
