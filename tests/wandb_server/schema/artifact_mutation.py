"""How artifacts are written: created, given a manifest and files, committed, used, linked."""

from __future__ import annotations

from typing import Any

from ..state import Artifact, Collection, Project, Run, now
from .artifacts import ArtifactView, artifact_id, membership
from .connection import global_id
from .context import Context
from .execute import GraphQLFailure, View, obj

Json = dict[str, Any]


class ArtifactMutation(View):
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._store = ctx.store

    def createArtifact(self, input: Json) -> Json:
        """A version with the same content is given back as it is, not made again."""
        project = self._store.project(input["entityName"], input["projectName"], create=True)
        assert project is not None
        collection = self._collection(
            project, input["artifactCollectionName"], input["artifactTypeName"]
        )
        run = project.runs.get(input.get("runName") or "")
        artifact = next(
            (v for v in collection.versions if v.digest == input["digest"] and _dedupes(input)),
            None,
        )
        if artifact is None:
            artifact = Artifact(
                collection,
                self._store.number(),
                input["digest"],
                description=input.get("description"),
                metadata=input.get("metadata"),
                history_step=input.get("historyStep"),
                created_by=run,
            )
            self._store.artifacts[artifact.number] = artifact
        artifact.client_id = input.get("clientID") or artifact.client_id
        artifact.tags += [t["tagName"] for t in input.get("tags") or []]
        artifact.aliases += [a["alias"] for a in input.get("aliases") or []]
        if artifact.state == "COMMITTED":
            _point_aliases(artifact)
        if run is not None and artifact not in run.logged_artifacts:
            run.logged_artifacts.append(artifact)
        return obj("CreateArtifactPayload", artifact=ArtifactView(self._ctx, artifact))

    def _collection(
        self, project: Project, name: str, type_name: str, portfolio: bool = False
    ) -> Collection:
        found = project.collections.get(name)
        if found is None:
            found = project.collections[name] = Collection(project, name, type_name, portfolio)
        elif found.type != type_name:
            raise GraphQLFailure(f"{name} holds artifacts of type {found.type}, not {type_name}")
        return found

    def createArtifactManifest(self, input: Json) -> Json:
        artifact = self._artifact(input["artifactID"])
        if artifact.manifest is None:
            artifact.manifest = self._store.new_blob()
        return obj("CreateArtifactManifestPayload", artifactManifest=self._manifest(artifact))

    def updateArtifactManifest(self, input: Json) -> Json:
        for artifact in self._store.artifacts.values():
            if global_id("ArtifactManifest", artifact.number) == input["artifactManifestID"]:
                manifest = self._manifest(artifact)
                return obj("UpdateArtifactManifestPayload", artifactManifest=manifest)
        raise GraphQLFailure("manifest not found")

    def _manifest(self, artifact: Artifact) -> Json:
        assert artifact.manifest is not None
        url = self._ctx.storage_url(artifact.manifest, "wandb_manifest.json")
        identifier = global_id("ArtifactManifest", artifact.number)
        file = obj("File", id=identifier, uploadUrl=url, uploadHeaders=[])
        return obj("ArtifactManifest", id=identifier, file=file)

    def createArtifactFiles(self, input: Json) -> Json:
        """Content that the project holds already need not be uploaded: it has no address."""
        edges = []
        for spec in input["artifactFiles"]:
            artifact = self._artifact(spec["artifactID"])
            digest = spec.get("md5") or spec.get("digest")
            stored = self._store.stored(artifact.collection.project, digest)
            blob = stored or artifact.files.get(digest) or self._store.new_blob()
            artifact.files[digest] = blob
            node = obj(
                "File",
                storagePath=f"wandb_artifacts/{blob.token}",
                uploadUrl=None if stored else self._ctx.storage_url(blob, spec["name"]),
                uploadHeaders=[],
                uploadMultipartUrls=None,
                artifact=obj("Artifact", id=artifact_id(artifact)),
            )
            edges.append(obj("FileEdge", node=node))
        return obj("CreateArtifactFilesPayload", files=obj("FileConnection", edges=edges))

    def commitArtifact(self, input: Json) -> Json:
        artifact = self._artifact(input["artifactID"])
        if artifact.state != "COMMITTED":
            artifact.state = "COMMITTED"
            artifact.version = len(artifact.collection.versions)
            artifact.collection.versions.append(artifact)
            artifact.aliases.append("latest")
            _point_aliases(artifact)
        return obj("CommitArtifactPayload", artifact=ArtifactView(self._ctx, artifact))

    def useArtifact(self, input: Json) -> Json:
        artifact = self._artifact(input["artifactID"])
        project = self._store.project(input["entityName"], input["projectName"])
        run: Run | None = project.runs.get(input["runName"]) if project else None
        if run is None:
            raise GraphQLFailure(f"run {input['runName']} not found")
        if run not in artifact.used_by:
            artifact.used_by.append(run)
            run.used_artifacts.append(artifact)
        return obj("UseArtifactPayload", artifact=ArtifactView(self._ctx, artifact))

    def linkArtifact(self, input: Json) -> Json:
        artifact = self._artifact(input.get("artifactID"), input.get("clientID"))
        project = self._store.project(input["entityName"], input["projectName"], create=True)
        assert project is not None
        portfolio = self._collection(
            project, input["artifactPortfolioName"], artifact.collection.type, portfolio=True
        )
        if artifact not in portfolio.versions:
            portfolio.versions.append(artifact)
        for alias in [*(a["alias"] for a in input.get("aliases") or []), "latest"]:
            portfolio.aliases[alias] = artifact
        view = membership(self._ctx, portfolio, artifact)
        return obj(
            "LinkArtifactPayload", versionIndex=view["versionIndex"], artifactMembership=view
        )

    def addAliases(self, input: Json) -> Json:
        artifact = self._artifact(input["artifactID"])
        for alias in input["aliases"]:
            self._named(alias).aliases[alias["alias"]] = artifact
        return obj("AddAliasesPayload", success=True)

    def deleteAliases(self, input: Json) -> Json:
        for alias in input["aliases"]:
            self._named(alias).aliases.pop(alias["alias"], None)
        return obj("DeleteAliasesPayload", success=True)

    def _named(self, alias: Json) -> Collection:
        project = self._store.project(alias["entityName"], alias["projectName"])
        if project is None or alias["artifactCollectionName"] not in project.collections:
            raise GraphQLFailure("artifact collection not found")
        return project.collections[alias["artifactCollectionName"]]

    def updateArtifact(self, input: Json) -> Json:
        artifact = self._artifact(input["artifactID"])
        for key in ("description", "metadata"):
            if input.get(key) is not None:
                setattr(artifact, key, input[key])
        added = [tag["tagName"] for tag in input.get("tagsToAdd") or []]
        gone = [tag["tagName"] for tag in input.get("tagsToDelete") or []]
        artifact.tags = [tag for tag in dict.fromkeys(artifact.tags + added) if tag not in gone]
        if input.get("aliases") is not None:
            names = [alias["alias"] for alias in input["aliases"]]
            held = artifact.collection.aliases
            for name in [n for n, version in held.items() if version is artifact]:
                del held[name]
            held.update(dict.fromkeys(names, artifact))
        artifact.updated_at = now()
        return obj("UpdateArtifactPayload", artifact=ArtifactView(self._ctx, artifact))

    def deleteArtifact(self, input: Json) -> Json:
        artifact = self._artifact(input["artifactID"])
        artifact.state = "DELETED"
        held = artifact.collection.aliases
        for name in [n for n, version in held.items() if version is artifact]:
            del held[name]
        return obj("DeleteArtifactPayload", artifact=ArtifactView(self._ctx, artifact))

    def _artifact(self, identifier: str | None, client_id: str | None = None) -> Artifact:
        for artifact in self._store.artifacts.values():
            if artifact_id(artifact) == identifier or (
                client_id is not None and artifact.client_id == client_id
            ):
                return artifact
        raise GraphQLFailure(f"artifact {identifier or client_id} not found")


def _dedupes(input: Json) -> bool:
    return bool(input.get("enableDigestDeduplication", True))


def _point_aliases(artifact: Artifact) -> None:
    artifact.collection.aliases.update(dict.fromkeys(artifact.aliases, artifact))
