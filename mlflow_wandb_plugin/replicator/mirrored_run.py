"""What the operations of one journal amount to: the MLflow run as it stands, in W&B's terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG, NOTES_TAG, PARENT_TAG, TERMINAL
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.targets.wandb.models import DELETED, Model
from mlflow_wandb_plugin.targets.wandb.run_writer import TABLE_BYTES

DONE = frozenset({"READY", "FAILED", DELETED})
"""Status of a logged model whose files change no more."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A row that shows an image."""

    what: rules.Picture
    local: Path
    at_ms: int


@dataclass(frozen=True, slots=True)
class Table:
    """A row that shows a table."""

    key: str
    columns: list[str]
    data: list[list[Any]]
    at_ms: int


Entry: TypeAlias = rules.Row | Picture | Table


@dataclass
class MirroredRunState:
    """Takes operations in their order. Attributes without a leading underscore may be read.

    Args:
        header: of the journal.
        files: the folder where the journal's files lie.
        before: what the W&B run's config said below `rules.ABOUT` when the journal began.
    """

    header: Mapping[str, Any]
    files: Path
    before: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        before = self.before
        self.name: str | None = None
        self.start_ms: int | None = before.get("start_time")
        self.end_ms: int | None = before.get("end_time")
        self.status = str(before.get("status") or "")
        self.user = str(before.get("user") or "")
        self.deleted = before.get("lifecycle_stage") == "deleted"
        self.tags: dict[str, str] = {
            key: value for key, value in (before.get("tags") or {}).items() if value is not None
        }
        self.params: dict[str, str] = {}
        self.datasets: list[dict[str, Any]] = list(before.get("datasets") or ())
        self.input_models: list[str] = list(before.get("input_models") or ())
        self.models: dict[str, Model] = {}
        self.loose_versions: dict[str, Any] = dict(before.get("registered_files") or {})
        self.traces = int(before.get("traces_not_mirrored") or 0)
        self.lost: Counter[str] = Counter(before.get("lost") or {})
        self.parent = before.get("parent_run_id")
        self.points = 0
        self.to_drop: list[str] = []
        self.to_save: dict[str, Path] = {}
        self.to_use: list[dict[str, Any]] = []
        self.to_alias: list[tuple[str, str, str | None]] = []
        self.changed_models: set[str] = set()
        self.used_files: list[Path] = []
        self._untagged: set[str] = set()

    # -- taking ---------------------------------------------------------------------------

    def take(self, operation: Mapping[str, Any]) -> Iterator[Entry]:
        """Take an operation; yield the rows that it becomes."""
        taken = getattr(self, f"_take_{operation['op']}", None)
        if taken is None:
            self.lost[f"unknown operation {operation['op']}"] += 1
            return
        yield from taken(operation) or ()

    def _take_create(self, op: Mapping[str, Any]) -> None:
        self._tag(op.get("tags") or {})
        self.name = op.get("name") or self.name
        self.user = op.get("user") or self.user
        self.start_ms = op.get("start_time") or self.start_ms
        self.status = self.status or "RUNNING"

    def _take_batch(self, op: Mapping[str, Any]) -> Iterator[Entry]:
        self.params.update(op.get("params") or {})
        self._tag(op.get("tags") or {})
        metrics = op.get("metrics") or ()
        self.points += len(metrics)
        yield from rules.rows(metrics)

    def _take_untag(self, op: Mapping[str, Any]) -> None:
        self.tags.pop(op["key"], None)
        self._untagged.add(op["key"])

    def _take_update(self, op: Mapping[str, Any]) -> None:
        self.name = op.get("name") or self.name
        self.status = op.get("status") or self.status
        self.end_ms = op.get("end_time") or self.end_ms

    def _take_delete(self, op: Mapping[str, Any]) -> None:
        self.deleted = True

    def _take_restore(self, op: Mapping[str, Any]) -> None:
        self.deleted = False

    def _take_inputs(self, op: Mapping[str, Any]) -> None:
        for dataset in op.get("datasets") or ():
            short = {key: dataset.get(key) for key in ("name", "digest", "source_type", "tags")}
            if short not in self.datasets:
                self.datasets.append(short)
            self.to_use.append(dict(dataset))
        self.input_models += [m for m in op.get("models") or () if m not in self.input_models]

    def _take_outputs(self, op: Mapping[str, Any]) -> None:
        for model_id, step in op.get("models") or ():
            model = self._model(model_id)
            if step not in model.steps:
                model.steps.append(step)

    def _take_file(self, op: Mapping[str, Any]) -> Iterator[Entry]:
        local, path = self.files / Path(op["file"]).name, str(op["path"])
        self.used_files.append(local)
        there = local.is_file()
        if not there:
            self.lost["file gone"] += 1
        if op.get("model"):
            if there:
                self._model(op["model"]).files[path] = local
            return
        if there:
            self.to_save[path] = local
        yield from self._media(path, local, int(op.get("at") or 0))

    def _media(self, path: str, local: Path, at_ms: int) -> Iterator[Entry]:
        picture = rules.picture(path)
        if picture is not None:
            yield Picture(picture, local, at_ms)
        elif path.endswith(".json") and local.is_file() and local.stat().st_size < TABLE_BYTES:
            found = rules.table(local.read_text(encoding="utf-8", errors="replace"))
            if found is not None and len(found[1]) <= rules.TABLE_ROWS:
                yield Table(path, *found, at_ms)

    def _take_unfile(self, op: Mapping[str, Any]) -> None:
        path = str(op.get("path") or "")
        files = self._model(op["model"]).files if op.get("model") else self.to_save
        for known in [name for name in files if _is_below(name, path)]:
            del files[known]
        if not op.get("model"):
            self.to_drop.append(path)

    def _take_model(self, op: Mapping[str, Any]) -> None:
        model = self._model(op["id"])
        model.known = True
        model.name = op.get("name") or model.name
        model.kind = op.get("type") or model.kind
        model.status = op.get("status") or model.status
        model.params.update(op.get("params") or {})
        model.tags = dict(op.get("tags") or model.tags)

    def _take_version(self, op: Mapping[str, Any]) -> None:
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
            self._model(op["model"]).versions[version.name, version.version] = version
        else:
            document = None if version.deleted else version.document() | {"source": version.source}
            self.loose_versions[rules.version_alias(version.name, version.version)] = document

    def _take_alias(self, op: Mapping[str, Any]) -> None:
        name, alias, pointed = str(op["name"]), str(op["alias"]), op.get("version")
        version = None if pointed is None else str(pointed)
        met = False
        for model in self.models.values():
            for key, before in list(model.versions.items()):
                now = before.with_alias(name, alias, version)
                met = met or key == (name, version)
                if now != before:
                    met = True
                    model.versions[key] = now
                    self.changed_models.add(model.model_id)
        if not met:
            # Of a version that an earlier journal told of.
            self.to_alias.append((name, alias, version))

    def _take_trace(self, op: Mapping[str, Any]) -> None:
        self.traces += int(op.get("count") or 1)

    def _take_lost(self, op: Mapping[str, Any]) -> None:
        self.lost[str(op.get("what") or "something")] += int(op.get("count") or 1)

    def _tag(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)
        self._untagged -= tags.keys()
        self.parent = tags.get(PARENT_TAG) or self.parent
        self.name = tags.get(NAME_TAG) or self.name

    def _model(self, model_id: str) -> Model:
        self.changed_models.add(model_id)
        return self.models.setdefault(model_id, Model(model_id))

    # -- giving ---------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """MLflow says that the run has ended."""
        return self.status in TERMINAL

    @property
    def notes(self) -> str | None:
        """None where nothing was ever said."""
        if NOTES_TAG in self._untagged:
            return ""
        return self.tags.get(NOTES_TAG)

    @property
    def labels(self) -> tuple[str, ...]:
        return rules.labels(self.tags, self.deleted)

    def config(self, mark: Mapping[str, Any]) -> dict[str, Any]:
        """The W&B run's config. ``mark`` says which journal this is."""
        header = self.header
        params = {
            rules.config_key(key): rules.config_value(value) for key, value in self.params.items()
        }
        keys = identity.config_keys(
            str(header["mlflow_run_id"]),
            str(header.get("experiment_id") or ""),
            str(header.get("tracking_uri") or ""),
        )
        return {**params, **keys, rules.ABOUT: self.about(mark)}

    def about(self, mark: Mapping[str, Any]) -> dict[str, Any]:
        """What stands below `rules.ABOUT`. What was taken away is null: W&B merges a config."""
        tags: dict[str, str | None] = dict.fromkeys(sorted(self._untagged))
        told = {
            "name": self.name if self.name != rules.run_name(self.name) else None,
            "user": self.tags.get("mlflow.user") or self.user,
            "experiment": self.header.get("experiment"),
            "status": self.status,
            "start_time": self.start_ms,
            "end_time": self.end_ms,
            "parent_run_id": self.parent,
            "lifecycle_stage": "deleted" if self.deleted else "active",
            "tags": tags | rules.shown_tags(self.tags),
            "datasets": self.datasets,
            "input_models": self.input_models,
            "registered_files": self.loose_versions,
            "traces_not_mirrored": self.traces,
            "lost": dict(self.lost),
            "journal": dict(mark),
        }
        return {key: value for key, value in told.items() if value not in (None, "", [], {}, 0)}


def _is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")
