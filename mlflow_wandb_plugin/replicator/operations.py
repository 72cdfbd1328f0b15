"""Apply the operations of a mirrored run's journal; `journal.outbox` describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.replicator.mirrored_run import MirroredRunState
from mlflow_wandb_plugin.replicator.pending_uploads import PendingUploads
from mlflow_wandb_plugin.targets.wandb.run_writer import WandbRunWriter

TABLE_BYTES = 50_000_000
"""A larger table is not parsed; it is uploaded as a file only."""


HistoryRow: TypeAlias = Callable[[WandbRunWriter, int], None]
"""Writes one row of the W&B run's history, with its number."""


def apply_operation(
    op: Mapping[str, Any], state: MirroredRunState, pending: PendingUploads, files: Path
) -> Iterator[HistoryRow]:
    """Apply ``op`` to the run's state and pending uploads; yield the history rows it becomes.

    ``files`` is the folder of the journal's files.
    """
    match op["op"]:
        case "create":
            state.add_tags(op.get("tags") or {})
            state.name = op.get("name") or state.name
            state.user = op.get("user") or state.user
            state.start_ms = op.get("start_time") or state.start_ms
            state.status = state.status or "RUNNING"
        case "update":
            state.name = op.get("name") or state.name
            state.status = op.get("status") or state.status
            state.end_ms = op.get("end_time") or state.end_ms
        case "delete":
            state.deleted = True
        case "restore":
            state.deleted = False
        case "untag":
            state.remove_tag(op["key"])
        case "batch":
            yield from _apply_batch(op, state)
        case "file":
            yield from _apply_file(op, state, pending, files)
        case "unfile":
            pending.remove_files(str(op.get("path") or ""), op.get("model"))
        case "inputs":
            _apply_inputs(op, state, pending)
        case "outputs":
            _apply_outputs(op, pending)
        case "model":
            pending.update_model(op)
        case "version":
            _apply_version(op, state, pending)
        case "alias":
            version = None if op.get("version") is None else str(op["version"])
            pending.move_alias(str(op["name"]), str(op["alias"]), version)
        case "trace":
            state.traces += int(op.get("count") or 1)
        case "lost":
            state.lost[str(op.get("what") or "something")] += int(op.get("count") or 1)
        case unknown:
            state.lost[f"unknown operation {unknown}"] += 1


def _apply_batch(op: Mapping[str, Any], state: MirroredRunState) -> Iterator[HistoryRow]:
    state.params.update(op.get("params") or {})
    state.add_tags(op.get("tags") or {})
    metrics = op.get("metrics") or ()
    state.points += len(metrics)
    return map(_metric_row, rules.rows(metrics))


def _metric_row(row: rules.Row) -> HistoryRow:
    return lambda writer, number: writer.log(number, row.document())


def _apply_inputs(op: Mapping[str, Any], state: MirroredRunState, pending: PendingUploads) -> None:
    for dataset in op.get("datasets") or ():
        state.add_dataset(dataset)
        pending.datasets.append(dict(dataset))
    models = op.get("models") or ()
    state.input_models += [model for model in models if model not in state.input_models]


def _apply_outputs(op: Mapping[str, Any], pending: PendingUploads) -> None:
    for model_id, step in op.get("models") or ():
        model = pending.change_model(model_id)
        if step not in model.steps:
            model.steps.append(step)


def _apply_file(
    op: Mapping[str, Any], state: MirroredRunState, pending: PendingUploads, files: Path
) -> Iterator[HistoryRow]:
    local, path = files / Path(op["file"]).name, str(op["path"])
    pending.local_files.append(local)
    exists = local.is_file()
    if not exists:
        state.lost["file gone"] += 1
    if op.get("model"):
        if exists:
            pending.change_model(op["model"]).files[path] = local
        return
    if exists:
        pending.files[path] = local
    yield from _media_rows(path, local, int(op.get("at") or 0))


def _media_rows(path: str, local: Path, at_ms: int) -> Iterator[HistoryRow]:
    image = rules.image_name(path)
    if image is not None:
        # A row also without its file: the numbers of later rows depend on it.
        yield lambda writer, number: writer.log_image(number, image, local, at_ms)
    elif path.endswith(".json") and local.is_file() and local.stat().st_size < TABLE_BYTES:
        table = rules.parse_table(local.read_text(encoding="utf-8", errors="replace"))
        if table is not None and len(table[1]) <= rules.TABLE_ROWS:
            yield lambda writer, number: writer.log_table(number, path, *table, at_ms)


def _apply_version(op: Mapping[str, Any], state: MirroredRunState, pending: PendingUploads) -> None:
    version = rules.Version(
        str(op["name"]),
        str(op["version"]),
        tuple(op.get("aliases") or ()),
        str(op.get("source") or ""),
        str(op.get("description") or ""),
        dict(op.get("tags") or {}),
        bool(op.get("deleted")),
    )
    if op.get("model"):
        model = pending.change_model(op["model"])
        model.versions[version.name, version.version] = version
    else:
        alias = rules.version_alias(version.name, version.version)
        document = None if version.deleted else version.document() | {"source": version.source}
        state.registered_files[alias] = document
