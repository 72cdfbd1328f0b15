"""Download the artifacts that a run of a W&B server logged and used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef, Item, UnreadableRange
from mlflow_wandb_plugin.errors import DamagedDownloadError, SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.mapping.to_wandb import DATASET_TYPE
from mlflow_wandb_plugin.sources.temp_dirs import RefCountedTempDir
from mlflow_wandb_plugin.sources.wandb_server.run_files import (
    FILES_A_PAGE,
    fetch,
    number,
)
from mlflow_wandb_plugin.wandb_api.client import WandbClient, one_line
from mlflow_wandb_plugin.wandb_log.metadata_file import json_object

_ARTIFACT_FIELDS = """
    id versionIndex state digest description metadata size
    artifactType { name } artifactSequence { name }
    aliases { alias artifactCollection { name } }
"""

LOGGED = f"""
query RunOutputArtifacts($entity: String!, $project: String!, $run: String!, $cursor: String,
                         $perPage: Int) {{
  project(name: $project, entityName: $entity) {{
    run(name: $run) {{
      artifacts: outputArtifacts(after: $cursor, first: $perPage) {{
        edges {{ node {{ {_ARTIFACT_FIELDS} }} cursor }}
        pageInfo {{ endCursor hasNextPage }}
      }}
    }}
  }}
}}
"""

USED = LOGGED.replace("RunOutputArtifacts", "RunInputArtifacts").replace(
    "outputArtifacts", "inputArtifacts"
)

MANIFEST = """
query FetchArtifactManifest($id: ID!) {
  artifact(id: $id) { currentManifest { file { directUrl } } }
}
"""

ENTRIES = """
query ArtifactFileURLs($id: ID!, $cursor: String, $perPage: Int) {
  artifact(id: $id) {
    files(after: $cursor, first: $perPage) {
      edges { node { name directUrl } cursor }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""


class RunArtifacts:
    """Downloads the artifacts of one run into ``folder``.

    Attributes:
        damaged: whether a file that arrived is not the one that its manifest lists.
    """

    def __init__(self, client: WandbClient, run_id: str, folder: RefCountedTempDir) -> None:
        self._client = client
        self._run_id = run_id
        self._folder = folder
        self._where = f"{client.address.path}/{run_id}: artifact"
        self.damaged = False

    def read(self) -> Iterator[Item]:
        """Yield the artifacts that the run used, and those that it logged with their files; also
        the files of MLflow's datasets.

        A file that the server lists and does not return is reported, and its entry has no copy.

        Raises:
            SourceUnavailableError: the server does not answer.
        """
        for node in list_artifacts(self._client, self._run_id, USED):
            if _is_dataset_of_mlflow(node):
                yield from self._whole(node, used=True)
            else:
                yield ArtifactRef(*_names(node), digest=str(node.get("digest") or ""), used=True)
        for node in list_artifacts(self._client, self._run_id, LOGGED):
            yield from self._whole(node)

    def _whole(self, node: Mapping[str, Any], used: bool = False) -> Iterator[Item]:
        """Yield an artifact with its files."""
        kind, name, version = _names(node)
        where = one_line(f"{self._where} {name}:{version}")
        unreadable: list[UnreadableRange] = []
        entries: tuple[ArtifactEntry, ...] = ()
        try:
            entries = tuple(self._entries(str(node["id"]), where, unreadable))
        except SourceUnavailableError:
            raise
        except SourceError as error:
            unreadable.append(UnreadableRange(where, 0, number(node.get("size")), str(error)))
        yield from unreadable
        digest, description = (str(node.get(key) or "") for key in ("digest", "description"))
        about = (digest, description, _aliases(node, name), _mapping(node.get("metadata")))
        yield ArtifactRef(kind, name, version, *about, entries, used)

    def _entries(
        self, artifact_id: str, where: str, unreadable: list[UnreadableRange]
    ) -> Iterator[ArtifactEntry]:
        manifest = self._manifest(artifact_id)
        stored = {path: entry for path, entry in manifest.items() if not entry.get("ref")}
        copies: dict[str, Path] = {}
        for node in self._stored_files(artifact_id) if stored else ():
            path = str(node["name"])
            if path in stored and path not in copies:
                try:
                    copies[path] = self._copy(node, path, str(stored[path].get("digest") or ""))
                except SourceUnavailableError:
                    raise
                except SourceError as error:
                    damaged = isinstance(error, DamagedDownloadError)
                    self.damaged = self.damaged or damaged
                    place = one_line(f"{where}/{path}"), 0, number(stored[path].get("size"))
                    unreadable.append(UnreadableRange(*place, str(error), lost=not damaged))
        for path, entry in manifest.items():
            digest, size = str(entry.get("digest") or ""), number(entry.get("size"))
            yield ArtifactEntry(path, digest, size, copies.get(path), entry.get("ref"))

    def _manifest(self, artifact_id: str) -> dict[str, Mapping[str, Any]]:
        artifact = self._client.query(MANIFEST, id=artifact_id).get("artifact") or {}
        file = (artifact.get("currentManifest") or {}).get("file") or {}
        local = self._folder.new_file("manifest.json")
        fetch(self._client, file, local)
        contents = json_object(local).get("contents")
        if not isinstance(contents, Mapping):
            raise SourceError("its manifest cannot be read")
        return {str(path): entry for path, entry in contents.items() if isinstance(entry, Mapping)}

    def _stored_files(self, artifact_id: str) -> Iterator[dict[str, Any]]:
        """Yield names and addresses, page by page, because addresses expire."""

        def page(cursor: str | None) -> Any:
            found = self._client.query(ENTRIES, id=artifact_id, cursor=cursor, perPage=FILES_A_PAGE)
            return (found.get("artifact") or {}).get("files")

        return self._client.pages(page)

    def _copy(self, node: Mapping[str, Any], path: str, digest: str) -> Path:
        local = self._folder.new_file(safe_path(path).rpartition("/")[2])
        fetch(self._client, node, local, digest)
        return local


def list_artifacts(client: WandbClient, run_id: str, document: str) -> Iterator[dict[str, Any]]:
    """Yield the artifacts that a run `LOGGED` or `USED`, as the server describes them."""

    def page(cursor: str | None) -> Any:
        return client.run(document, run_id, cursor=cursor, perPage=FILES_A_PAGE).get("artifacts")

    for node in client.pages(page):
        if node.get("state") in (None, "COMMITTED"):
            yield node


def _names(node: Mapping[str, Any]) -> tuple[str, str, str]:
    kind = (node.get("artifactType") or {}).get("name") or ""
    name = (node.get("artifactSequence") or {}).get("name") or ""
    return str(kind), str(name), f"v{node.get('versionIndex')}"


def _is_dataset_of_mlflow(node: Mapping[str, Any]) -> bool:
    """Whether a used artifact is one that the mirror of an MLflow run made: no run logged it."""
    return _names(node)[0] == DATASET_TYPE and "mlflow_digest" in _mapping(node.get("metadata"))


def _aliases(node: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(
        str(alias["alias"])
        for alias in node.get("aliases") or ()
        if (alias.get("artifactCollection") or {}).get("name") in (None, name)
    )


def _mapping(text: Any) -> Mapping[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) and text else text
    except ValueError:
        return {"unreadable": text}
    return value if isinstance(value, Mapping) else {}
