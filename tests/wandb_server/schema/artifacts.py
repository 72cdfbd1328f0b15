"""How artifacts, their collections and their files are read."""

from __future__ import annotations

import json
import mimetypes
from typing import Any

from ..state import Artifact, Blob, Collection, Project
from .connection import connection, global_id
from .context import Context, project_info, run_info
from .execute import View, obj

Json = dict[str, Any]


def artifact_id(artifact: Artifact) -> str:
    return global_id("Artifact", artifact.number)


def tags_of(names: list[str]) -> list[Json]:
    return [obj("Tag", id=global_id("Tag", name), name=name) for name in names]


def manifest_of(artifact: Artifact) -> Json:
    if artifact.manifest is None or not artifact.manifest.uploaded:
        return {"contents": {}}
    manifest: Json = json.loads(artifact.manifest.path.read_bytes())
    return manifest


class ArtifactView(View):
    typename = "Artifact"

    def __init__(self, ctx: Context, artifact: Artifact) -> None:
        self._ctx = ctx
        self._artifact = artifact
        self.id = artifact_id(artifact)
        self.versionIndex = artifact.version
        self.description = artifact.description
        self.metadata = artifact.metadata
        self.ttlDurationSeconds = artifact.ttl_seconds
        self.ttlIsInherited = artifact.ttl_seconds < 0
        self.historyStep = artifact.history_step
        self.state = artifact.state
        self.digest = artifact.digest
        self.digestAlgorithm = "MANIFEST_MD5"
        self.commitHash = global_id("Commit", artifact.number)
        self.createdAt = artifact.created_at
        self.updatedAt = artifact.updated_at

    def artifactSequence(self) -> CollectionView:
        return CollectionView(self._ctx, self._artifact.collection)

    def artifactType(self) -> Json:
        return obj("ArtifactType", name=self._artifact.collection.type)

    def tags(self) -> list[Json]:
        return tags_of(self._artifact.tags)

    def size(self) -> int:
        entries = manifest_of(self._artifact)["contents"].values()
        return sum(entry.get("size", 0) for entry in entries)

    def fileCount(self) -> int:
        return len(manifest_of(self._artifact)["contents"])

    def aliases(self) -> list[Json]:
        return [
            obj(
                "ArtifactAlias",
                id=global_id("ArtifactAlias", collection.name, alias),
                alias=alias,
                artifactCollection=CollectionView(self._ctx, collection),
            )
            for collection in self._collections()
            for alias, artifact in collection.aliases.items()
            if artifact is self._artifact
        ]

    def artifactMemberships(self) -> Json:
        return connection(
            "ArtifactCollectionMembership",
            [c for c in self._collections() if self._artifact in c.versions],
            lambda collection: membership(self._ctx, collection, self._artifact),
        )

    def _collections(self) -> list[Collection]:
        projects = self._ctx.store.projects.values()
        return [item for project in projects for item in project.collections.values()]

    def createdBy(self) -> Json | None:
        run = self._artifact.created_by
        return run_info(run) if run else None

    def usedBy(self) -> Json:
        return connection("Run", self._artifact.used_by, run_info)

    def currentManifest(self) -> Json | None:
        blob = self._artifact.manifest
        if blob is None:
            return None
        url = self._ctx.storage_url(blob, "wandb_manifest.json")
        return obj("ArtifactManifest", file=obj("File", directUrl=url))

    def files(
        self, names: list[str] | None = None, first: int | None = None, after: str | None = None
    ) -> Json:
        entries = manifest_of(self._artifact)["contents"].items()
        chosen = [(name, entry) for name, entry in entries if not names or name in names]
        return connection("File", chosen, lambda item: self._file(*item), first, after)

    def _file(self, name: str, entry: Json) -> Json:
        url = entry.get("ref")
        if url is None:
            url = self._ctx.storage_url(self._content(entry), name)
        return obj(
            "File",
            id=global_id("ArtifactFile", self._artifact.number, name),
            name=name,
            displayName=name,
            url=url,
            directUrl=url,
            sizeBytes=entry.get("size", 0),
            storagePath=None,
            mimetype=mimetypes.guess_type(name)[0],
            updatedAt=self._artifact.created_at,
            digest=entry["digest"],
            md5=entry["digest"],
        )

    def _content(self, entry: Json) -> Blob:
        """A file's content, which came with this version or the one that the manifest names."""
        digest, birth = entry["digest"], entry.get("birthArtifactID")
        if digest in self._artifact.files:
            return self._artifact.files[digest]
        versions = self._artifact.collection.versions
        return next(one.files[digest] for one in versions if artifact_id(one) == birth)


class CollectionView(View):
    interfaces = ("ArtifactCollection",)

    def __init__(self, ctx: Context, collection: Collection) -> None:
        self._ctx = ctx
        self._collection = collection
        self.typename = "ArtifactPortfolio" if collection.portfolio else "ArtifactSequence"
        self.id = global_id("ArtifactCollection", collection.project.number, collection.name)
        self.name = collection.name
        self.description = collection.description
        self.createdAt = collection.created_at
        self.updatedAt = None
        self.state = "READY"
        self.digestAlgorithm = "MANIFEST_MD5"
        self.tags = obj("TagConnection", edges=[])
        self.defaultArtifactType = obj("ArtifactType", name=collection.type)

    def project(self) -> Json:
        return project_info(self._collection.project)

    def latestArtifact(self) -> ArtifactView | None:
        latest = self._collection.aliases.get("latest")
        return ArtifactView(self._ctx, latest) if latest else None

    def aliases(self, first: int | None = None, after: str | None = None) -> Json:
        return connection(
            "ArtifactAlias",
            list(self._collection.aliases),
            lambda alias: obj("ArtifactAlias", id=global_id("Alias", alias), alias=alias),
            first,
            after,
        )

    def artifacts(self, first: int | None = None, after: str | None = None) -> Json:
        """The newest version first."""
        page = connection(
            "VersionedArtifact",
            self._collection.versions[::-1],
            lambda artifact: ArtifactView(self._ctx, artifact),
            first,
            after,
        )
        for edge in page["edges"]:
            edge["version"] = f"v{edge['node'].versionIndex}"
        return page

    def artifactMembership(self, aliasName: str) -> Json | None:
        artifact = self._collection.find(aliasName)
        return membership(self._ctx, self._collection, artifact) if artifact else None


def membership(ctx: Context, collection: Collection, artifact: Artifact) -> Json:
    """A version as it is seen in one collection."""
    view = ArtifactView(ctx, artifact)
    index = collection.versions.index(artifact)
    names = [alias for alias, target in collection.aliases.items() if target is artifact]
    return obj(
        "ArtifactCollectionMembership",
        id=global_id("Membership", collection.name, index),
        versionIndex=index,
        createdAt=artifact.created_at,
        aliases=[
            obj("ArtifactAlias", id=global_id("Alias", collection.name, alias), alias=alias)
            for alias in [*names, f"v{index}"]
        ],
        artifactCollection=CollectionView(ctx, collection),
        artifact=view,
        files=view.files,
    )


def find_membership(ctx: Context, project: Project, name: str) -> Json | None:
    """Look up `collection:alias`; the alias is `latest` when there is none."""
    collection_name, _, alias = name.partition(":")
    collection = project.collections.get(collection_name)
    if collection is None:
        return None
    return CollectionView(ctx, collection).artifactMembership(alias or "latest")


class ArtifactTypeView(View):
    typename = "ArtifactType"

    def __init__(self, ctx: Context, project: Project, name: str) -> None:
        self._ctx = ctx
        self._project = project
        self.id = global_id("ArtifactType", project.number, name)
        self.name = name
        self.description = None
        self.createdAt = project.created_at

    def artifactCollections(self, first: int | None = None, after: str | None = None) -> Json:
        found = [c for c in self._project.collections.values() if c.type == self.name]
        view = lambda collection: CollectionView(self._ctx, collection)  # noqa: E731
        return connection("ArtifactCollection", found, view, first, after)

    def artifactCollection(self, name: str) -> CollectionView | None:
        found = self._project.collections.get(name)
        return CollectionView(self._ctx, found) if found and found.type == self.name else None
