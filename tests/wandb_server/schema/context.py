"""What every resolver needs, and the small objects that several types refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..state import Blob, Project, Run, Store, User
from .connection import global_id
from .execute import obj


@dataclass
class Context:
    store: Store
    base_url: str

    def storage_url(self, blob: Blob, name: str = "") -> str:
        """Where the bytes are, signed by the token in it: no API key is needed."""
        return f"{self.base_url}/storage/{blob.token}/{quote(name[-80:], safe='')}"

    def file_url(self, run: Run, name: str) -> str:
        """Where a run's file is, for clients that send the API key."""
        parts = (run.project.entity, run.project.name, run.name, name)
        return f"{self.base_url}/files/" + "/".join(quote(part, safe="") for part in parts)


def run_id(run: Run) -> str:
    return global_id("Run", "v1", run.name, run.project.name, run.project.entity)


def project_fields(project: Project) -> dict[str, Any]:
    return {
        "id": global_id("Project", "v1", project.name, project.entity),
        "internalId": global_id("ProjectInternalId", project.number),
        "name": project.name,
        "entityName": project.entity,
        "entity": obj("Entity", id=global_id("Entity", project.entity), name=project.entity),
    }


def project_info(project: Project) -> dict[str, Any]:
    return obj("Project", **project_fields(project))


def run_info(run: Run) -> dict[str, Any]:
    return obj("Run", id=run_id(run), name=run.name, project=project_info(run.project))


def user_info(user: User) -> dict[str, Any]:
    return obj(
        "User",
        id=global_id("User", user.username),
        name=user.name,
        username=user.username,
        email=user.email,
        photoUrl=None,
        admin=False,
        flags="{}",
        entity=user.username,
        deletedAt=None,
        apiKeys=obj("ApiKeyConnection", edges=[]),
        teams=obj(
            "EntityConnection",
            edges=[obj("EntityEdge", node=obj("Entity", name=user.username))],
        ),
    )
