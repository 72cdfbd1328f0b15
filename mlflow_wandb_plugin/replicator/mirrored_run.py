"""The state of an MLflow run, rebuilt from its journal, and its description in W&B's terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_wandb_plugin.core.mlflow_terms import (
    NAME_TAG,
    NOTES_TAG,
    PARENT_TAG,
    TERMINAL,
    USER_TAG,
)
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.targets.wandb.run_writer import Description


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

    def remove_tag(self, key: str) -> None:
        self.tags.pop(key, None)
        self.removed_tags.add(key)

    def add_dataset(self, dataset: Mapping[str, Any]) -> None:
        short = {key: dataset.get(key) for key in ("name", "digest", "source_type", "tags")}
        if short not in self.datasets:
            self.datasets.append(short)

    def section(self, experiment: str | None, journal: Mapping[str, Any]) -> dict[str, Any]:
        """The section `rules.MLFLOW_KEY` of the W&B run's config.

        Removed tags are null in it, because W&B merges a config into the one it has.

        Args:
            experiment: name of the experiment.
            journal: identity and first row of the journal, see ``record`` of `RunUpload`.
        """
        removed: dict[str, str | None] = dict.fromkeys(sorted(self.removed_tags))
        section = {
            "name": self.name if self.name != rules.run_name(self.name) else None,
            "user": self.tags.get(USER_TAG) or self.user,
            "experiment": experiment,
            "status": self.status,
            "start_time": self.start_ms,
            "end_time": self.end_ms,
            "parent_run_id": self.parent,
            "lifecycle_stage": "deleted" if self.deleted else "active",
            "tags": removed | rules.config_tags(self.tags),
            "datasets": self.datasets,
            "input_models": self.input_models,
            "registered_files": self.registered_files,
            "traces_not_mirrored": self.traces,
            "lost": dict(self.lost),
            "journal": dict(journal),
        }
        return {key: value for key, value in section.items() if value not in (None, "", [], {}, 0)}

    def describe(self, header: Mapping[str, Any], journal: Mapping[str, Any]) -> Description:
        """The run's name, notes, W&B tags and config.

        Args:
            header: of the run's journal.
            journal: as for `section`.
        """
        section = self.section(header.get("experiment"), journal)
        return Description(
            rules.run_name(self.name),
            "" if NOTES_TAG in self.removed_tags else self.tags.get(NOTES_TAG),
            rules.wandb_tags(self.tags, self.deleted),
            rules.run_config(header, self.params, section),
        )
