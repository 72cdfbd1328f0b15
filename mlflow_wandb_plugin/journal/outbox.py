"""The outbox: journals of MLflow runs that are mirrored into W&B, one file for each run.

Every process that writes to a run (a script, each worker of an MLflow server) appends to the run's
one journal, ``MLFLOW_RUN_ID.journal``: an append is one system call, so the file's order is the
order of the writes, and the W&B row that an operation becomes has a number that never changes.
Files of the run are copied to ``MLFLOW_RUN_ID.files/`` beside it. Writers leave the journal behind;
the replicator, one for each folder, removes it when W&B has everything.

A frame of kind `OPERATION` holds one JSON object, with bare NaN and Infinity as Python writes them.
A batch may be in the binary format of `encode_batch` instead: a ``B``, two sizes, such an object
with the metrics' keys, and their values, timestamps and steps as little-endian 8-byte numbers.
``op`` names the operation; times are Unix ms; ``at`` is when the operation was journalled:

======== ===========================================================================================
op       fields
======== ===========================================================================================
create   name, user, start_time, tags {key: value}
batch    metrics [[key, value, timestamp, step], …], params {key: value}, tags {key: value}
untag    key
update   status, end_time, name: each may be null, which changes nothing
delete   none: the run was deleted
restore  none
inputs   datasets [{name, digest, source_type, source, schema, profile, tags}], models [id, …]
outputs  models [[id, step], …]
file     path (in the run), file (its name in the files folder), model (id, or null)
unfile   path of a file or folder (empty: all files), model (id, or null)
model    id, name, type, params, tags, status; repeated when one of them changes; new params may
         come alone, with the id
version  name, version, model (id or null), source, aliases [alias, …], tags, description,
         deleted (true or false); repeated when one of them changes
alias    name, alias, version (null: the alias was removed)
trace    count: number of traces that were written, which W&B has no place for
lost     what, count: could not be journalled (a file that was deleted, …)
======== ===========================================================================================
"""

from __future__ import annotations

import functools
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.private_files import open_private
from mlflow_wandb_plugin.journal.reader import JournalReader

OPERATION = 4
"""The kind of a journal's frame that holds an operation."""

BORN = "mlflow"
"""Value of ``born`` in the header of such a journal. The header also has mlflow_run_id,
experiment_id, experiment (its name), tracking_uri (without credentials), project, entity, and
role: a "client" keeps the journal open until its run or it ends, a "server" closes idle ones."""

TARGET = "wandb"
"""Names W&B as the target where the URI of an MLflow may stand."""
FOLDER = "mlflow"
"""The folder of journals inside wandb's own folder: the one for journals of W&B runs, so that both
have one replicator."""
FORMER_FOLDER = "mirror"
TROUBLE = "trouble"
DELIVERY_LOCK = "delivery.lock"
"""The lock file of a folder, held by the process that delivers to W&B."""
STUCK = ("waiting", "failed")
"""States of a journal that W&B does not accept now; the status file has the error."""


def folder() -> Path:
    """Where the journals are: ``MLFLOW_WANDB_JOURNAL_DIR``, else ``mirror`` in wandb's own folder.

    wandb's own folder is found as wandb finds it: below ``WANDB_DIR`` or the current folder.
    """
    chosen = os.environ.get("MLFLOW_WANDB_JOURNAL_DIR")
    if chosen:
        return Path(chosen).absolute()
    base = Path(os.environ.get("WANDB_DIR") or ".").absolute()
    hidden = base / ".wandb"
    return (hidden if hidden.is_dir() else base / "wandb") / FOLDER


def read_trouble(folder: Path) -> str:
    """The error of the folder's latest delivery to W&B; empty if it succeeded."""
    try:
        with open_private(folder / TROUBLE) as file:
            return str(file.read().decode())
    except (OSError, ValueError):
        return ""


def write_trouble(folder: Path, text: str) -> None:
    """Tell the processes that write journals into ``folder`` of an error; empty text removes it."""
    if text:
        with open_private(folder / TROUBLE, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        (folder / TROUBLE).unlink(missing_ok=True)


def encode(op: str, **fields: Any) -> bytes:
    """The payload of a frame; numpy's numbers become Python's."""
    return _encode({"op": op, **fields}).encode()


def encode_batch(
    at: int, metrics: Sequence[Any], params: Mapping[str, str], tags: Mapping[str, str]
) -> bytes:
    """The payload of a batch. Binary, because `mlflow.log_metrics` waits for it, and writing floats
    in decimal would take most of the time.

    Args:
        at: Unix ms.
        metrics: `mlflow.entities.Metric`.
    """
    keys = [metric.key for metric in metrics]
    try:
        numbers = _numbers(len(keys)).pack(
            *[metric.value for metric in metrics],
            *[metric.timestamp for metric in metrics],
            *[metric.step for metric in metrics],
        )
    except (struct.error, OverflowError, TypeError):
        # A number does not fit into 8 bytes: JSON can hold it.
        points = [[metric.key, metric.value, metric.timestamp, metric.step] for metric in metrics]
        return encode("batch", at=at, metrics=points, params=params, tags=tags)
    head = (
        f'{{"op":"batch","at":{at},"keys":{_encode_keys(tuple(keys))},'
        f'"params":{_encode(params) if params else "{}"},"tags":{_encode(tags) if tags else "{}"}}}'
    ).encode()
    return b"".join((_sizes.pack(_BATCH, len(head), len(keys)), head, numbers))


_BATCH = b"B"
_sizes = struct.Struct("<cII")


@functools.lru_cache(256)
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d{2 * count}q")


@functools.lru_cache(256)
def _encode_keys(keys: tuple[str, ...]) -> str:
    return _encode(keys)


def _decode(payload: bytes) -> dict[str, Any]:
    operation: dict[str, Any]
    if payload[:1] != _BATCH:
        operation = json.loads(payload)
        return operation
    _, size, count = _sizes.unpack_from(payload)
    operation = json.loads(payload[_sizes.size : _sizes.size + size])
    numbers = _numbers(count).unpack_from(payload, _sizes.size + size)
    columns = (numbers[:count], numbers[count : 2 * count], numbers[2 * count :])
    operation["metrics"] = [list(row) for row in zip(operation.pop("keys"), *columns, strict=True)]
    return operation


def _python_number(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a journal cannot hold a {type(value).__name__}")


# `json.dumps` with arguments would make an encoder for each call.
_encode = json.JSONEncoder(
    separators=(",", ":"), default=_python_number, check_circular=False
).encode


def operations(reader: JournalReader) -> Iterator[tuple[int, dict[str, Any]]]:
    """The operations appended since the last call, each with the offset just behind it.

    Raises:
        JournalError: the file cannot be opened.
    """
    for frame in reader.read():
        if frame.kind == OPERATION:
            yield frame.end, _decode(frame.payload)
