"""Make the records of a W&B transaction log: one run, as wandb-core reads it for an upload.

Pure functions of the data model. The records are wandb's protocol buffers; all of wandb's private
names that this takes are in this file. Source of the rules: the records that wandb 0.31 writes.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_wandb_plugin.core.model import ArtifactRef, Key, RunInfo
from mlflow_wandb_plugin.mapping.to_wandb import seconds

if TYPE_CHECKING:
    from wandb.proto import wandb_internal_pb2 as pb

OLDEST_READER = "0.9.0"
"""The oldest wandb that can read the log, as wandb-core writes it."""
DEFINITIONS = "m"
"""The key of W&B's internal config with the definitions of metrics."""
END_OF_RUN = 1
"""`FilesItem.PolicyType.END`: upload a file when the run ends."""
_NAMES = ("name", "glob_name", "step_metric")


class HistoryRow(NamedTuple):
    """One row of a run's history: the JSON text of each value, by key. ``timestamp_ms`` is Unix."""

    step: int
    timestamp_ms: int
    values: Mapping[Key, str]


class LogArtifact(NamedTuple):
    """An artifact to be logged.

    Attributes:
        about: what describes it.
        digest: of its manifest.
        entries: manifest entries, with absolute local paths.
        aliases: ``latest`` first, as wandb sends them.
    """

    about: ArtifactRef
    digest: str
    entries: Sequence[ManifestEntry]
    aliases: Sequence[str]


class ManifestEntry(NamedTuple):
    """One file of an artifact. ``local_path`` is empty for a reference, and for a file that W&B has
    of another version, with the id ``kept_in``."""

    path: str
    digest: str
    size: int
    local_path: str = ""
    ref: str = ""
    kept_in: str = ""


def json_text(value: Any) -> str:
    """Return a value as W&B writes it: NaN and infinities are bare words."""
    return json.dumps(value, ensure_ascii=False, default=str)


def number_text(value: float) -> str:
    """Return a number as W&B's JSON has it; a whole number without a fraction."""
    if value != value or value in (math.inf, -math.inf):
        return json.dumps(value)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _record() -> pb.Record:
    # wandb is imported when a log is written, and not by those who only list targets.
    from wandb.proto import wandb_internal_pb2

    return wandb_internal_pb2.Record()


def header() -> pb.Record:
    import wandb

    record = _record()
    record.header.version_info.producer = wandb.__version__
    record.header.version_info.min_consumer = OLDEST_READER
    return record


def run(info: RunInfo, entity: str, project: str, config: Mapping[str, Any]) -> pb.Record:
    """Describe the run. The first such record creates it, a later one changes it."""
    record = _record()
    run = record.run
    run.run_id, run.entity, run.project = info.run_id, entity, project
    run.display_name, run.notes = info.name, info.notes
    run.run_group, run.job_type = info.group, info.job_type
    run.tags.extend(info.tags)
    run.host = str(info.facts.get("host") or "")
    run.git.commit = str(info.facts.get("git_commit") or "")
    run.git.remote_url = str(info.facts.get("git_remote") or "")
    if info.started_ms is not None:
        run.start_time.FromMilliseconds(info.started_ms)
    _set(run.config.update, config)
    return record


def config(values: Mapping[str, Any]) -> pb.Record:
    record = _record()
    # A record without a type ends wandb-core.
    record.config.SetInParent()
    _set(record.config.update, values)
    return record


def summary(values: Mapping[str, Any]) -> pb.Record:
    record = _record()
    record.summary.SetInParent()
    _set(record.summary.update, values)
    return record


def _set(items: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        items.add(key=str(key), value_json=json_text(value))


def history(row: HistoryRow, started_ms: int | None) -> pb.Record:
    """A row of the history; ``_runtime`` counts from ``started_ms``, Unix ms."""
    record = _record()
    items = record.history.item
    record.history.step.num = row.step
    for key, text in row.values.items():
        if len(key) == 1:
            items.add(key=key[0], value_json=text)
        else:
            items.add(nested_key=key, value_json=text)
    items.add(key="_timestamp", value_json=repr(seconds(row.timestamp_ms)))
    items.add(key="_step", value_json=str(row.step))
    if started_ms is not None:
        items.add(key="_runtime", value_json=repr((row.timestamp_ms - started_ms) / 1000))
    return record


def system_metrics(timestamp_ms: int, values: Mapping[str, float]) -> pb.Record:
    """Samples of the machine, under W&B's names."""
    record = _record()
    record.stats.stats_type = record.stats.SYSTEM
    # One microsecond more: wandb-core's seconds, read as milliseconds, would be cut below them.
    record.stats.timestamp.FromMicroseconds(1000 * timestamp_ms + 1)
    for name, value in values.items():
        record.stats.item.add(key=name, value_json=number_text(value))
    return record


def define_metric(glob: str, step_metric: str) -> pb.Record:
    """Make ``step_metric`` the x axis of the metrics that match ``glob``."""
    record = _record()
    record.metric.glob_name, record.metric.step_metric = glob, step_metric
    return record


def hide_from_summary(name: str) -> pb.Record:
    """Keep a metric out of the summary."""
    record = _record()
    record.metric.name, record.metric.summary.none = name, True
    return record


def definitions(internal: Any) -> Iterator[pb.Record]:
    """The definitions of metrics that a run's internal config (``_wandb``) has.

    Source: wandb-core writes each with the numbers of its protocol buffer fields as keys, and the
    step metric as its place in the list, from 1.
    """
    listed = internal.get(DEFINITIONS) if isinstance(internal, Mapping) else None
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if listed else []
    fields = _record().metric.DESCRIPTOR.fields_by_number
    for entry in entries:
        record = _record()
        for number, value in entry.items():
            field = fields.get(int(number)) if str(number).isdigit() else None
            if field is None:
                continue
            if field.name == "step_metric_index":
                _set_step_metric(record.metric, entries, value)
            elif field.name in ("options", "summary"):
                _set_flags(getattr(record.metric, field.name), value)
            elif isinstance(value, str if field.name in _NAMES else int):
                setattr(record.metric, field.name, value)
        if record.metric.name or record.metric.glob_name:
            yield record


def _set_step_metric(metric: Any, entries: Sequence[Mapping[str, Any]], place: Any) -> None:
    if isinstance(place, int) and 0 < place <= len(entries):
        name = entries[place - 1].get("1")
        metric.step_metric = name if isinstance(name, str) else ""


def _set_flags(message: Any, numbers: Any) -> None:
    fields = message.DESCRIPTOR.fields_by_number
    for number in numbers if isinstance(numbers, list) else ():
        if isinstance(number, int) and number in fields:
            setattr(message, fields[number].name, True)


def files(paths: Iterable[str]) -> pb.Record:
    """Files of the run's folder that are to be uploaded."""
    record = _record()
    for path in paths:
        record.files.files.add(path=path, policy=END_OF_RUN)
    return record


def artifact(logged: LogArtifact, run_id: str, entity: str, project: str) -> pb.Record:
    """An artifact that the run logs, or uses where ``about.used`` says so."""
    record = _record()
    made, about = record.artifact, logged.about
    made.run_id, made.entity, made.project = run_id, entity, project
    made.type, made.name, made.digest = about.type, about.name, logged.digest
    made.description = about.description
    made.metadata = json_text(dict(about.metadata)) if about.metadata else ""
    made.aliases.extend(logged.aliases)
    made.finalize = True
    # As `Run.use_artifact` does with an artifact that it has to log first.
    made.use_after_commit = made.user_created = about.used
    made.client_id, made.sequence_client_id = secrets.token_hex(64), secrets.token_hex(64)
    made.manifest.version = 1
    made.manifest.storage_policy = "wandb-storage-policy-v1"
    made.manifest.storage_policy_config.add(key="storageLayout", value_json='"V2"')
    for entry in logged.entries:
        made.manifest.contents.add(
            path=entry.path,
            digest=entry.digest,
            size=entry.size,
            local_path=entry.local_path,
            ref=entry.ref,
            birth_artifact_id=entry.kept_in,
            skip_cache=True,
        )
    return record


def end(exit_code: int, runtime_s: float) -> pb.Record:
    record = _record()
    record.exit.exit_code, record.exit.runtime = exit_code, int(runtime_s)
    return record
