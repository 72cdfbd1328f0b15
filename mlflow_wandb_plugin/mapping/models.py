"""A logged model of MLflow, in the terms of W&B's model artifacts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import ArtifactEntry
from mlflow_wandb_plugin.mapping import to_wandb as rules

TYPE = "model"
"""The type of a model's artifact."""
DELETED = "DELETED"
"""Status of a logged model that was deleted in MLflow. W&B keeps the artifact with this status."""
DONE = frozenset({"READY", "FAILED", DELETED})
"""Statuses of a logged model whose files no longer change."""
REGISTERED = "mlflow_registered_versions"
MODEL_ID, KIND, STATUS = "mlflow_model_id", "mlflow_model_type", "mlflow_status"
PARAMS, TAGS, STEPS = "mlflow_params", "mlflow_tags", "mlflow_steps"
NAME = "mlflow_name"
"""The model's name, where that of its artifact is another."""
EMPTY_FILE = "mlflow_model.json"
"""The file of a model without files, with its metadata: W&B identifies artifacts by content."""
MOST_COPIES = 20
"""How many times a version may be a copy of a version, when its model is searched."""
_MODEL_URI = re.compile(r"models:/(m-[0-9a-f]+)")
_VERSION_URI = re.compile(r"models:/([^/]+)/(\d+)$")


@dataclass(slots=True)
class Model:
    """A logged model, as far as it is known.

    Attributes:
        files: by their path in the model; those that W&B has and this machine has not are
            entries of the artifact.
        versions: its registered versions, by name and version.
        known: its description is known; else only a registration of it is.
    """

    model_id: str
    name: str = ""
    kind: str = ""
    status: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    files: dict[str, Path | ArtifactEntry] = field(default_factory=dict)
    versions: dict[tuple[str, str], rules.Version] = field(default_factory=dict)
    known: bool = False

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], artifact: str) -> Model:
        """The inverse of `metadata`, for an artifact of the name ``artifact``; without files."""
        model = cls(
            str(metadata.get(MODEL_ID)),
            str(metadata.get(NAME) or artifact),
            str(metadata.get(KIND) or ""),
            str(metadata.get(STATUS) or ""),
            texts(metadata.get(PARAMS)),
            texts(metadata.get(TAGS)),
            [step for step in _list(metadata.get(STEPS)) if isinstance(step, int)],
            known=True,
        )
        for document in registered_versions(metadata):
            version = rules.Version.from_document(document)
            model.versions[version.name, version.version] = version
        return model

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the model's artifact."""
        return {
            MODEL_ID: self.model_id,
            KIND: self.kind,
            STATUS: self.status,
            PARAMS: dict(self.params),
            TAGS: dict(self.tags),
            STEPS: list(self.steps),
            REGISTERED: self.registered,
            **({} if rules.artifact_name(self.name) == self.name else {NAME: self.name}),
        }

    @property
    def finished(self) -> bool:
        """Whether its files no longer change, or all that is known is that it was registered."""
        return self.status in DONE or not self.known

    @property
    def registered(self) -> list[dict[str, Any]]:
        """The model's versions that are not deleted, for the metadata."""
        return [
            version.document()
            for _, version in sorted(self.versions.items())
            if not version.deleted
        ]

    @property
    def aliases(self) -> set[str]:
        """The aliases of a new artifact of the model."""
        return rules.aliases({self.model_id}, (), self.registered)


def model_of_version(version: Any, find: Callable[[str, str], Any]) -> str | None:
    """Return the id of the logged model of a registered version (MLflow's entity), or of the
    version that it was copied from; None if it has none.

    Args:
        find: returns the version of a registered model, by name and version.
    """
    for _ in range(MOST_COPIES):
        source = version.source or ""
        found = _MODEL_URI.match(source)
        model = getattr(version, "model_id", None) or (found[1] if found else None)
        copied = _VERSION_URI.match(source)
        if model or not copied:
            return model
        version = find(copied[1], copied[2])
    return None


def registered_file(version: rules.Version) -> tuple[str, Mapping[str, Any] | None]:
    """Return the entry in ``registered_files`` of the config for a version whose model is files of
    the run and no logged model; the document is None for one that was deleted."""
    alias = rules.version_alias(version.name, version.version)
    return alias, None if version.deleted else version.document() | {"source": version.source}


def registered_versions(metadata: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the registered versions that an artifact's metadata has (`Version.document`)."""
    return [entry for entry in _list(metadata.get(REGISTERED)) if isinstance(entry, Mapping)]


def texts(value: Any) -> dict[str, str]:
    """Return the texts of a mapping that anybody may have written; empty if it is none."""
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
