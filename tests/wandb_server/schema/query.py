"""The roots of queries: viewer, server, projects, artifacts by id."""

from __future__ import annotations

from typing import Any

from ..state import Project
from .artifacts import (
    ArtifactTypeView,
    ArtifactView,
    CollectionView,
    artifact_id,
    find_membership,
)
from .connection import connection, global_id
from .context import Context, project_fields, user_info
from .execute import GraphQLFailure, View, obj
from .runs import RunView, filter_runs, select_runs
from .sweeps import SweepView

Json = dict[str, Any]

FEATURES = (
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "FILESTREAM_GZIP",
    "LARGE_FILENAMES",
    "MARK_RUN_FILES_UPLOADED",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "STRUCTURED_CONSOLE_LOGS",
    "SWEEPS_QUERY_FILTERING",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)


class Query(View):
    typename = "Query"
    strict = True

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def viewer(self) -> Json:
        return user_info(self._ctx.store.user)

    def serverInfo(self) -> Json:
        features = [obj("ServerFeature", name=name, isEnabled=True) for name in FEATURES]
        return obj("ServerInfo", features=features, cliVersionInfo=None)

    def entity(self, name: str | None = None) -> Json:
        name = name or self._ctx.store.user.username
        return obj(
            "Entity",
            id=global_id("Entity", name),
            name=name,
            organization=None,
            user=None,
            xxhashDigestsEnabled=False,
        )

    def organization(self, name: str) -> None:
        return None

    def project(self, name: str | None = None, entityName: str | None = None) -> View | None:
        found = self._ctx.store.project(entityName, name)
        return ProjectView(self._ctx, found) if found else None

    model = project

    def models(
        self, entityName: str | None = None, first: int | None = None, after: str | None = None
    ) -> Json:
        entity = entityName or self._ctx.store.user.username
        projects = [p for p in self._ctx.store.projects.values() if p.entity == entity]
        return connection(
            "Project", projects, lambda item: ProjectView(self._ctx, item), first, after
        )

    def artifact(self, id: str) -> ArtifactView | None:
        artifacts = self._ctx.store.artifacts.values()
        found = (item for item in artifacts if artifact_id(item) == id)
        return next((ArtifactView(self._ctx, item) for item in found), None)

    def artifactCollection(self, id: str) -> CollectionView | None:
        projects = self._ctx.store.projects.values()
        views = (CollectionView(self._ctx, c) for p in projects for c in p.collections.values())
        return next((view for view in views if view.id == id), None)

    def clientIDMapping(self, clientID: str) -> Json | None:
        artifacts = self._ctx.store.artifacts.values()
        found = (item for item in artifacts if item.client_id == clientID)
        return next((obj("ClientIDMapping", serverID=artifact_id(item)) for item in found), None)


class ProjectView(View):
    typename = "Project"

    def __init__(self, ctx: Context, project: Project) -> None:
        self._ctx = ctx
        self._project = project
        self.__dict__.update(project_fields(project))
        self.createdAt = project.created_at
        self.description = None
        self.access = "PRIVATE"
        self.isBenchmark = False
        self.readOnly = False
        self.views = None

    def user(self) -> Json:
        return user_info(self._ctx.store.user)

    def runCount(self, filters: str | None = None) -> int:
        return len(filter_runs(self._project.runs.values(), filters))

    def runs(
        self,
        filters: str | None = None,
        order: str | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Json:
        chosen = select_runs(self._project.runs.values(), filters, order)
        return connection("Run", chosen, lambda run: RunView(self._ctx, run), first, after)

    def run(self, name: str) -> RunView | None:
        found = self._project.runs.get(name)
        return RunView(self._ctx, found) if found else None

    def bucket(self, name: str, missingOk: bool = False) -> RunView | None:
        found = self.run(name)
        if found is None and not missingOk:
            raise GraphQLFailure(f"run {name} not found")
        return found

    def allViews(
        self,
        viewType: str = "runs",
        viewName: str | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Json:
        return connection("View", self._project.reports, self._report, first, after)

    def _report(self, title: str) -> Json:
        return obj(
            "View",
            id=global_id("View", self._project.name, title),
            name=title,
            displayName=title,
            description=None,
            user=self.user(),
            spec="{}",
            updatedAt=self._project.created_at,
            createdAt=self._project.created_at,
        )

    def totalSweeps(self) -> int:
        return len(self._project.sweeps)

    def sweeps(
        self, filters: str | None = None, first: int | None = None, after: str | None = None
    ) -> Json:
        items = list(self._project.sweeps.values())
        return connection("Sweep", items, lambda item: SweepView(self._ctx, item), first, after)

    def sweep(self, sweepName: str) -> SweepView | None:
        found = self._project.sweeps.get(sweepName)
        return SweepView(self._ctx, found) if found else None

    def artifactTypes(self, first: int | None = None, after: str | None = None) -> Json:
        names = sorted({item.type for item in self._project.collections.values()})
        return connection("ArtifactType", names, self._type, first, after)

    def artifactType(self, name: str) -> ArtifactTypeView | None:
        known = any(item.type == name for item in self._project.collections.values())
        return self._type(name) if known else None

    def _type(self, name: str) -> ArtifactTypeView:
        return ArtifactTypeView(self._ctx, self._project, name)

    def artifactCollections(self, first: int | None = None, after: str | None = None) -> Json:
        items = list(self._project.collections.values())
        return connection(
            "ArtifactCollection", items, lambda item: CollectionView(self._ctx, item), first, after
        )

    def artifactCollection(self, name: str) -> CollectionView | None:
        found = self._project.collections.get(name)
        return CollectionView(self._ctx, found) if found else None

    def artifactCollectionMembership(self, name: str) -> Json | None:
        return find_membership(self._ctx, self._project, name)

    def artifact(self, name: str) -> Any:
        found = find_membership(self._ctx, self._project, name)
        return found["artifact"] if found else None
