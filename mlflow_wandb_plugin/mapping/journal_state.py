"""Rebuild an MLflow run from the operations of its journal (see `journal.outbox`), and describe it
in W&B's terms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG, NOTES_TAG, PARENT_TAG, TERMINAL
from mlflow_wandb_plugin.core.model import RunInfo, RunState, as_float, flatten
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import DELETED, Model, registered_file

OF_THE_RUN = frozenset(
    {"create", "update", "delete", "restore", "untag", "batch", "inputs", "trace", "lost"}
)
"""The operations that `JournalState.apply` knows."""


@dataclass
class JournalState:
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

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> JournalState:
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

    def apply(self, op: Mapping[str, Any]) -> None:
        """Apply what an operation says of the run itself; others hold points, files or models."""
        match op["op"]:
            case "create":
                self.add_tags(op.get("tags") or {})
                self.name = op.get("name") or self.name
                self.user = op.get("user") or self.user
                self.start_ms = op.get("start_time") or self.start_ms
                self.status = self.status or "RUNNING"
            case "update":
                self.name = op.get("name") or self.name
                self.status = op.get("status") or self.status
                self.end_ms = op.get("end_time") or self.end_ms
            case "delete":
                self.deleted = True
            case "restore":
                self.deleted = False
            case "untag":
                self.tags.pop(op["key"], None)
                self.removed_tags.add(op["key"])
            case "batch":
                self.params.update(op.get("params") or {})
                self.add_tags(op.get("tags") or {})
            case "inputs":
                self.add_datasets(op.get("datasets") or ())
                models = op.get("models") or ()
                self.input_models += [one for one in models if one not in self.input_models]
            case "trace":
                self.traces += int(op.get("count") or 1)
            case "lost":
                self.lost[str(op.get("what") or "something")] += int(op.get("count") or 1)

    def add_tags(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)
        self.removed_tags -= tags.keys()
        self.parent = tags.get(PARENT_TAG) or self.parent
        self.name = tags.get(NAME_TAG) or self.name

    def add_datasets(self, datasets: Iterable[Mapping[str, Any]]) -> None:
        for dataset in datasets:
            short = rules.dataset_entry(dataset)
            if short not in self.datasets:
                self.datasets.append(short)

    def add_points(self, metrics: Sequence[Sequence[Any]]) -> None:
        """Count values [key, value, timestamp, step], and note the latest of each key: the one with
        the largest step, then time, then value. Source: MLflow's SqlAlchemyStore,
        ``latest_metrics``."""
        self.points += len(metrics)
        for key, value, at_ms, step in metrics:
            name, number = rules.metric_key(str(key)), as_float(value)
            # MLflow's tables keep a NaN as 0, with a mark.
            rank = int(step), int(at_ms), 0.0 if math.isnan(number) else number
            if name not in self.latest or rank > self.latest[name][0]:
                self.latest[name] = rank, number

    def section(self, experiment: str | None, journal: Mapping[str, Any]) -> dict[str, Any]:
        """The section `rules.MLFLOW_KEY` of the W&B run's config.

        Args:
            experiment: its name.
            journal: identity and first row of the journal, see `JournalStart`.
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

    def info(
        self,
        header: Mapping[str, Any],
        journal: Mapping[str, Any],
        state: RunState = "running",
        exit_code: int | None = None,
    ) -> RunInfo:
        """Describe the run; its rows are the reader's to say.

        Args:
            header: of the journal.
            journal: as for `section`.
            state, exit_code: how the run ended, if it did.
        """
        secrets = Secrets.of_setting()
        section = self.section(header.get("experiment"), journal)
        config = rules.run_config(header, self.params, section, secrets)
        return RunInfo(
            run_id=str(header["mlflow_run_id"]),
            project=str(header["project"]),
            entity=str(header.get("entity") or ""),
            name=rules.run_name(self.name) or "",
            notes=secrets.text(self.tags.get(NOTES_TAG) or ""),
            tags=rules.wandb_tags(self.tags, secrets, self.deleted),
            group=self.parent or "",
            segments=(rules.SEGMENT,),
            state=state,
            exit_code=exit_code,
            started_ms=self.start_ms,
            ended_ms=None if state == "running" else self.end_ms,
            config=config,
            first_config=flatten(config),
            summary={key: value for key, (_, value) in self.latest.items()},
            points=self.points,
            facts=rules.run_facts(self.tags, self.user),
        )


class JournalModels:
    """The logged models of a journal's run.

    Args:
        earlier: returns the models that W&B has of the run, by id; called once, if at all.
    """

    def __init__(self, earlier: Callable[[], dict[str, Model]]) -> None:
        self._earlier = earlier
        self._models: dict[str, Model] | None = None
        self._changed: set[str] = set()
        self._taken: set[str] = set()

    def apply(self, op: Mapping[str, Any], state: JournalState) -> None:
        """Apply an operation on models; other operations do nothing."""
        match op["op"]:
            case "model":
                self._update(op)
            case "outputs":
                for model_id, step in op.get("models") or ():
                    model = self.change(model_id)
                    if step not in model.steps:
                        model.steps.append(step)
            case "version":
                self._add_version(op, state)
            case "alias":
                version = None if op.get("version") is None else str(op["version"])
                if not self._move_alias(str(op["name"]), str(op["alias"]), version):
                    state.lost["alias of a model that W&B does not have"] += 1

    def change(self, model_id: str) -> Model:
        """The model, which is yielded again by `take_changed`."""
        self._changed.add(model_id)
        return self._known().setdefault(model_id, Model(model_id))

    def take_changed(self, unfinished: bool) -> list[Model]:
        """The models that changed since the last call, oldest first; not those that were deleted
        before W&B had them.

        Args:
            unfinished: also those that MLflow still writes: no more will come.
        """
        if not self._changed:
            return []
        changed = [model for model in self._known().values() if model.model_id in self._changed]
        taken = [model for model in changed if unfinished or model.finished]
        self._changed -= {model.model_id for model in taken}
        shown = [one for one in taken if one.status != DELETED or one.model_id in self._taken]
        self._taken |= {model.model_id for model in shown}
        return shown

    @property
    def all(self) -> list[Model]:
        """The models that are known, oldest first."""
        return list(self._known().values())

    def _known(self) -> dict[str, Model]:
        if self._models is None:
            self._models = self._earlier()
            self._taken |= self._models.keys()
        return self._models

    def _update(self, op: Mapping[str, Any]) -> None:
        model = self.change(op["id"])
        # Params alone may be added to a model that an earlier journal has.
        model.known = model.known or bool(op.get("name"))
        model.name = op.get("name") or model.name
        model.kind = op.get("type") or model.kind
        model.status = op.get("status") or model.status
        model.params.update(op.get("params") or {})
        model.tags = dict(op.get("tags") or model.tags)

    def _add_version(self, op: Mapping[str, Any], state: JournalState) -> None:
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
            self.change(op["model"]).versions[version.name, version.version] = version
        else:
            alias, document = registered_file(version)
            state.registered_files[alias] = document

    def _move_alias(self, name: str, alias: str, version: str | None) -> bool:
        """Let an alias of a registered model point to ``version``; None removes it. Returns whether
        a model is known that has, had or gets the alias."""
        known = False
        for model in self._known().values():
            for key, before in list(model.versions.items()):
                now = before.with_alias(name, alias, version)
                known = known or key == (name, version)
                if now != before:
                    known = True
                    model.versions[key] = now
                    self._changed.add(model.model_id)
        return known
