"""Rebuild the state of an MLflow run from its journal's operations (see `journal.outbox`), and
describe it in W&B's terms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core.mlflow_terms import (
    NAME_TAG,
    NOTES_TAG,
    PARENT_TAG,
    TERMINAL,
)
from mlflow_wandb_plugin.core.model import as_float
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import registered_file
from mlflow_wandb_plugin.replicator.pending_uploads import PendingUploads
from mlflow_wandb_plugin.replicator.seen_points import SeenPoints
from mlflow_wandb_plugin.targets.wandb.run_writer import Description, WandbRunWriter

HistoryRow: TypeAlias = Callable[[WandbRunWriter, int], None]
"""Writes one row of the W&B run's history, with its number."""


@dataclass
class MirroredRunState:
    """An MLflow run after the operations that were read so far.

    Attributes:
        start_ms, end_ms: Unix ms.
        removed_tags: keys of tags that were removed and not set again.
        registered_files: versions of registered models that are files of the run and no logged
            model, by W&B alias; None for one that was deleted.
        traces: number of traces, which W&B has no place for.
        lost: number of things that could not be mirrored, by kind.
        points: number of metric values in the journal.
        latest: each metric's latest value by MLflow's rule, behind its rank: step, time in Unix
            ms, and value.
        seen: these values, if MLflow drops exact repeats of them; else None.
    """

    name: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    status: str = ""
    user: str = ""
    deleted: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    removed_tags: set[str] = field(default_factory=set)
    params: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    datasets: list[dict[str, Any]] = field(default_factory=list)
    input_models: list[str] = field(default_factory=list)
    registered_files: dict[str, Any] = field(default_factory=dict)
    traces: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    points: int = 0
    latest: dict[str, tuple[tuple[int, int, float], float]] = field(default_factory=dict)
    seen: SeenPoints | None = None

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> MirroredRunState:
        """The state as an earlier journal of the run left it: the inverse of `section`."""
        tags = section.get("tags") or {}
        return cls(
            start_ms=section.get("start_time"),
            end_ms=section.get("end_time"),
            status=str(section.get("status") or ""),
            user=str(section.get("user") or ""),
            deleted=section.get("lifecycle_stage") == "deleted",
            tags={key: value for key, value in tags.items() if value is not None},
            parent=section.get("parent_run_id"),
            datasets=list(section.get("datasets") or ()),
            input_models=list(section.get("input_models") or ()),
            registered_files=dict(section.get("registered_files") or {}),
            traces=int(section.get("traces_not_mirrored") or 0),
            lost=Counter(section.get("lost") or {}),
        )

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def losses(self) -> dict[str, int]:
        """What W&B does not have, by kind, for the status file."""
        traces = {"traces (W&B has no place for them)": self.traces} if self.traces else {}
        return dict(self.lost) | traces

    def add_tags(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)
        self.removed_tags -= tags.keys()
        self.parent = tags.get(PARENT_TAG) or self.parent
        self.name = tags.get(NAME_TAG) or self.name

    def add_latest(self, metrics: Iterable[Sequence[Any]]) -> None:
        """Note the latest of the values [key, value, timestamp, step]: the one with the largest
        step, then time, then value. Source: MLflow's SqlAlchemyStore, ``latest_metrics``."""
        for key, value, at_ms, step in metrics:
            name, number = rules.metric_key(str(key)), as_float(value)
            # MLflow's tables keep a NaN as 0, with a mark.
            rank = int(step), int(at_ms), 0.0 if math.isnan(number) else number
            if name not in self.latest or rank > self.latest[name][0]:
                self.latest[name] = rank, number

    def remove_tag(self, key: str) -> None:
        self.tags.pop(key, None)
        self.removed_tags.add(key)

    def add_dataset(self, dataset: Mapping[str, Any]) -> None:
        short = rules.dataset_entry(dataset)
        if short not in self.datasets:
            self.datasets.append(short)

    def section(self, experiment: str | None, journal: Mapping[str, Any]) -> dict[str, Any]:
        """The section `rules.MLFLOW_KEY` of the W&B run's config.

        Args:
            experiment: its name.
            journal: identity and first row of the journal, see ``record`` of `RunUpload`.
        """
        return rules.config_section(
            name=self.name,
            user=self.user,
            experiment=experiment,
            status=self.status,
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            parent=self.parent,
            tags=self.tags,
            secrets=Secrets.of_setting(),
            deleted=self.deleted,
            removed_tags=self.removed_tags,
            datasets=self.datasets,
            input_models=self.input_models,
            registered_files=self.registered_files,
            traces=self.traces,
            lost=self.lost,
            journal=journal,
        )

    def describe(self, header: Mapping[str, Any], journal: Mapping[str, Any]) -> Description:
        """The run's description, by its journal's ``header``; ``journal`` is as for `section`."""
        secrets = Secrets.of_setting()
        section = self.section(header.get("experiment"), journal)
        notes = "" if NOTES_TAG in self.removed_tags else self.tags.get(NOTES_TAG)
        return Description(
            rules.run_name(self.name),
            notes and secrets.text(notes),
            rules.wandb_tags(self.tags, secrets, self.deleted),
            rules.run_config(header, self.params, section, secrets),
        )


def apply_operation(
    op: Mapping[str, Any], state: MirroredRunState, pending: PendingUploads, files: Path
) -> Iterator[HistoryRow]:
    """Apply ``op``, whose files are in ``files``; yield the history rows that it becomes."""
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
            state.params.update(op.get("params") or {})
            state.add_tags(op.get("tags") or {})
            metrics = op.get("metrics") or ()
            if state.seen is not None:
                metrics = state.seen.new(metrics)
            state.points += len(metrics)
            state.add_latest(metrics)
            yield from map(_metric_row, rules.rows(metrics))
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
    # A link may name any file of the user's.
    linked = local.is_symlink() or files.is_symlink()
    if not linked:
        pending.local_files.append(local)
    exists = local.is_file() and not linked
    if not exists:
        state.lost["file is a symbolic link" if linked else "file gone"] += 1
    if op.get("model"):
        if exists:
            pending.change_model(op["model"]).files[path] = local
        return
    if exists:
        pending.files[path] = local
    yield from _media_rows(path, local if exists else None, int(op.get("at") or 0))


def _media_rows(path: str, local: Path | None, at_ms: int) -> Iterator[HistoryRow]:
    image = rules.image_name(path)
    if image is not None:
        # A row also without its file: the numbers of later rows depend on it.
        yield lambda writer, number: writer.log_image(number, image, local, at_ms)
    elif local is not None and rules.may_be_table(path, local.stat().st_size):
        table = rules.shown_table(local.read_text(encoding="utf-8", errors="replace"))
        if table is not None:
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
        alias, document = registered_file(version)
        state.registered_files[alias] = document
