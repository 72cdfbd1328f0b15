"""A W&B project by its entity and name."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_wandb_plugin.errors import UsageError


@dataclass(frozen=True)
class Namespace:
    """A project of an entity."""

    entity: str
    project: str

    @classmethod
    def from_path(cls, path: str) -> Namespace:
        """Make a namespace of ``entity/project``.

        Raises:
            UsageError: the path has another form.
        """
        entity, _, project = path.partition("/")
        if not entity or not project or "/" in project:
            raise UsageError(f"{path!r} is no namespace: write entity/project")
        return cls(entity, project)

    @property
    def path(self) -> str:
        """``entity/project``."""
        return f"{self.entity}/{self.project}"
