"""Ask a W&B server whether it accepts the API key, and what it already has of a run."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from mlflow_wandb_plugin.core.file_digests import base64_md5
from mlflow_wandb_plugin.core.model import ArtifactRef
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetUnavailableError, UsageError
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress, default_server, find_api_key, mode
from mlflow_wandb_plugin.wandb_api.client import WandbClient

Mode: TypeAlias = Literal["online", "offline"]

VIEWER = "query Viewer { viewer { entity username } }"
RUN = """
query MirroredRun($entity: String!, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) { name state config historyLineCount historyTail eventsLineCount }
  }
}
"""
RUNS = """
query ReplicasOfProject($entity: String!, $project: String!, $cursor: String) {
  project(name: $project, entityName: $entity) {
    runs(after: $cursor, first: 100, order: "+created_at") {
      edges { node { name config } cursor }
      pageInfo { endCursor hasNextPage }
    }
  }
}
"""
FILES = """
query MirroredFiles($entity: String!, $project: String!, $run: String!, $names: [String]) {
  project(name: $project, entityName: $entity) {
    run(name: $run) { files(names: $names, first: 100) { edges { node { name md5 sizeBytes } } } }
  }
}
"""
LOGGED = """
query LoggedArtifacts($entity: String!, $project: String!, $run: String!, $cursor: String) {
  project(name: $project, entityName: $entity) {
    run(name: $run) {
      outputArtifacts(after: $cursor, first: 100) {
        edges {
          node { digest state artifactType { name } artifactSequence { name } }
        }
        pageInfo { endCursor hasNextPage }
      }
    }
  }
}
"""
VERSIONS = """
query ArtifactVersions($entity: String!, $project: String!, $type: String!, $name: String!,
                       $cursor: String) {
  project(name: $project, entityName: $entity) {
    artifactType(name: $type) {
      artifactCollection(name: $name) {
        artifacts(after: $cursor, first: 100) {
          edges { node { id digest } cursor }
          pageInfo { endCursor hasNextPage }
        }
      }
    }
  }
}
"""
USE = """
mutation UseArtifact($entity: String!, $project: String!, $run: String!, $artifact: ID!) {
  useArtifact(input: {entityName: $entity, projectName: $project, runName: $run,
                      artifactID: $artifact}) {
    artifact { id }
  }
}
"""
_FILES_PER_PAGE = 100
ARRIVAL_TIMEOUT_S = 10.0
"""How long W&B may take to show rows and files that it has accepted."""


class RunAddress(NamedTuple):
    """A run of a W&B server."""

    entity: str
    project: str
    run_id: str


class RemoteRun(NamedTuple):
    """What W&B has of a run.

    Attributes:
        rows: number of its history's next row, which is its next step.
        lines: number of rows of its history; steps may be left out.
        system_samples: number of its samples of system metrics.
    """

    rows: int
    config: Mapping[str, Any]
    exists: bool = True
    lines: int = 0
    system_samples: int = 0


def wanted_mode() -> Mode:
    """The mode in ``WANDB_MODE`` or wandb's settings: online unless it is offline.

    Raises:
        UsageError: wandb is disabled.
    """
    wanted = os.environ.get("WANDB_MODE") or mode()
    if wanted == "disabled":
        raise UsageError("wandb is disabled (WANDB_MODE): mirrored runs wait in their journals")
    return "offline" if wanted in ("offline", "dryrun") else "online"


class Access:
    """Questions to a W&B server.

    Args:
        patience_s: how long to ask again where it does not answer.
        server: the server with its key; None means the one that the environment names.

    Raises from every method:
        UsageError: there is no key, or the server does not accept it.
        SourceUnavailableError: the server did not answer.
        SourceError: it refused for good.
    """

    def __init__(self, patience_s: float = 5.0, server: ProjectAddress | None = None) -> None:
        self._base_url = default_server() if server is None else server.base_url
        self._key = "" if server is None else server.api_key
        self._patience_s = patience_s
        self._client: WandbClient | None = None

    def entity(self, given: str = "") -> str:
        """``given``, else the default entity of the API key's owner.

        Asks the server in any case, to know that it answers and accepts the key.
        """
        viewer = self._viewer()
        return given or str(viewer.get("entity") or viewer.get("username") or "")

    def account(self) -> str:
        """The name of the API key's owner, and of the default entity where that is another."""
        viewer = self._viewer()
        name, entity = str(viewer.get("username") or ""), str(viewer.get("entity") or "")
        return name if entity in ("", name) else f"{name}, entity {entity}"

    def _viewer(self) -> dict[str, Any]:
        viewer = self.client("", "").query(VIEWER).get("viewer")
        if not isinstance(viewer, dict):
            raise UsageError(
                f"{self._base_url} does not accept the API key: set WANDB_API_KEY, "
                f"or run `wandb login --host {self._base_url}`"
            )
        return viewer

    def run(self, address: RunAddress) -> RemoteRun:
        """What the server has of a run now; of a run that it does not have, nothing."""
        data = self.client(address.entity, address.project).query(RUN, run=address.run_id)
        run = (data.get("project") or {}).get("run")
        if not isinstance(run, dict):
            return RemoteRun(0, {}, exists=False)
        tail = json.loads(run.get("historyTail") or "[]")
        last = json.loads(tail[-1]) if tail else {}
        rows = int(last.get("_step", (run.get("historyLineCount") or 0) - 1)) + 1
        config = _unwrapped(run.get("config"))
        lines = int(run.get("historyLineCount") or 0)
        return RemoteRun(rows, config, True, lines, int(run.get("eventsLineCount") or 0))

    def configs(self, entity: str, project: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the id and the config of each run of a project, if there is such a project."""
        client = self.client(entity, project)

        def page(cursor: str | None) -> Any:
            return (client.query(RUNS, cursor=cursor).get("project") or {}).get("runs")

        for node in client.pages(page):
            yield str(node["name"]), _unwrapped(node.get("config"))

    def missing_files(self, address: RunAddress, files: Mapping[str, Path]) -> list[str]:
        """Those of ``files`` (by their path in the run) that the server lacks or has otherwise."""
        client = self.client(address.entity, address.project)
        remote: dict[str, dict[str, Any]] = {}
        names = sorted(files)
        for start in range(0, len(names), _FILES_PER_PAGE):
            asked = names[start : start + _FILES_PER_PAGE]
            page = client.run(FILES, address.run_id, names=asked).get("files") or {}
            remote.update({edge["node"]["name"]: edge["node"] for edge in page.get("edges") or ()})
        return [name for name, local in files.items() if not _same(remote.get(name), local)]

    def wait_for_arrival(
        self, address: RunAddress, rows: int, files: Mapping[str, Path], lines: int = 0
    ) -> None:
        """Wait until the server has a run's history and files.

        Args:
            rows: number of the history's next row.
            files: by their path in the run.
            lines: number of rows.

        Raises:
            TargetUnavailableError: it lacks some after `ARRIVAL_TIMEOUT_S`.
        """

        def lacking() -> str:
            found = self.run(address)
            missing = self.missing_files(address, files)
            if found.rows >= rows and found.lines >= lines and not missing:
                return ""
            return f"has {found.rows} of {rows} rows, lacks {len(missing)} files"

        _wait_until_nothing_lacks(lacking)

    def use_artifact(self, address: RunAddress, used: ArtifactRef) -> bool:
        """Mark an artifact of the run's project as used by the run; returns whether it exists.

        Args:
            used: it is identified by type, name and digest.
        """
        client = self.client(address.entity, address.project)

        def page(cursor: str | None) -> Any:
            found = client.project(VERSIONS, type=used.type, name=used.name, cursor=cursor)
            collection = (found.get("artifactType") or {}).get("artifactCollection") or {}
            return collection.get("artifacts")

        for node in client.pages(page):
            if node.get("digest") == used.digest:
                client.query(USE, run=address.run_id, artifact=node["id"])
                return True
        return False

    def logged_artifacts(self, address: RunAddress) -> set[tuple[str, str, str]]:
        """Return type, name and digest of the artifacts that a run has logged completely."""
        client = self.client(address.entity, address.project)

        def page(cursor: str | None) -> Any:
            return client.run(LOGGED, address.run_id, cursor=cursor).get("outputArtifacts")

        return {
            (node["artifactType"]["name"], node["artifactSequence"]["name"], str(node["digest"]))
            for node in client.pages(page)
            if node.get("state") == "COMMITTED"
        }

    def missing_artifacts(
        self, address: RunAddress, wanted: Collection[tuple[str, str, str]]
    ) -> set[tuple[str, str, str]]:
        """Return those of ``wanted`` that the server, after some patience, does not say the run
        has logged."""
        missing = set(wanted)

        def lacking() -> str:
            missing.difference_update(self.logged_artifacts(address))
            return f"lacks {len(missing)} artifacts" if missing else ""

        with contextlib.suppress(TargetUnavailableError):
            _wait_until_nothing_lacks(lacking)
        return missing

    def client(self, entity: str, project: str) -> WandbClient:
        """Return a client of one project of the server."""
        key = self._key or find_api_key(self._base_url)
        address = ProjectAddress(self._base_url, self._base_url, entity, project, "", key)
        if self._client is None:
            self._client = WandbClient(address, backoff=Backoff(self._patience_s))
        # All share one limit, and know whether the server has ever answered.
        return self._client.for_project(address)


def _unwrapped(text: Any) -> dict[str, Any]:
    """Parse a config, which has each value below the key ``value``."""
    config = json.loads(text or "{}")
    return {
        key: item["value"] if isinstance(item, dict) and "value" in item else item
        for key, item in config.items()
    }


def _wait_until_nothing_lacks(lacking: Callable[[], str]) -> None:
    """Wait until ``lacking``, which says what W&B lacks, says nothing.

    Raises:
        TargetUnavailableError: it still does after `ARRIVAL_TIMEOUT_S`.
    """
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    pause_s = 0.1
    while lacks := lacking():
        if time.monotonic() > deadline:
            raise TargetUnavailableError(f"W&B {lacks}: they are sent again")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 2.0)


def _same(node: Mapping[str, Any] | None, local: Path) -> bool:
    if node is None:
        return False
    if node.get("md5"):
        return bool(node["md5"] == base64_md5(local))
    return int(node.get("sizeBytes") or 0) == local.stat().st_size
