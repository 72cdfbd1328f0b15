"""Whether W&B takes what is mirrored, and what it has of a run already."""

from __future__ import annotations

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress, default_server, find_api_key, mode
from mlflow_wandb_plugin.wandb_api.client import WandbClient

Mode: TypeAlias = Literal["online", "offline"]

VIEWER = "query Viewer { viewer { entity username } }"
RUN = """
query MirroredRun($entity: String!, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) {
    run(name: $run) { name state config historyLineCount historyTail }
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
_FILES_A_PAGE = 100


@dataclass(frozen=True, slots=True)
class Remote:
    """What W&B has of a run. ``rows`` is the number of its history's next row."""

    rows: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    exists: bool = False


def wanted_mode() -> Mode:
    """``WANDB_MODE`` or wandb's setting: online unless it says offline.

    Raises:
        UsageError: wandb is disabled.
    """
    said = os.environ.get("WANDB_MODE") or mode()
    if said == "disabled":
        raise UsageError("wandb is disabled (WANDB_MODE): what is to be mirrored waits")
    return "offline" if said in ("offline", "dryrun") else "online"


class Access:
    """The W&B server that the environment names, as the forwarder needs to know it.

    Raises from every method:
        UsageError: there is no key, or the server does not accept it.
        SourceUnavailableError: the server did not answer.
        SourceError: it refused for good.
    """

    def __init__(self, patience_s: float = 5.0) -> None:
        self._base_url = default_server()
        self._patience_s = patience_s

    def entity(self, given: str = "") -> str:
        """``given``, else the entity that runs of the key's owner go to. Asks the server in any
        case: whether it is there and accepts the key."""
        viewer = self._client("", "").query(VIEWER).get("viewer")
        if not isinstance(viewer, dict):
            raise UsageError(
                f"{self._base_url} does not accept the API key: set WANDB_API_KEY, "
                f"or run `wandb login --host {self._base_url}`"
            )
        return given or str(viewer.get("entity") or viewer.get("username") or "")

    def look(self, entity: str, project: str, run_id: str) -> Remote:
        """What the server has of a run now."""
        data = self._client(entity, project).query(RUN, run=run_id)
        run = (data.get("project") or {}).get("run")
        if not isinstance(run, dict):
            return Remote()
        tail = json.loads(run.get("historyTail") or "[]")
        last = json.loads(tail[-1]) if tail else {}
        rows = int(last.get("_step", (run.get("historyLineCount") or 0) - 1)) + 1
        config = json.loads(run.get("config") or "{}")
        plain = {
            key: item["value"] if isinstance(item, dict) and "value" in item else item
            for key, item in config.items()
        }
        return Remote(rows, plain, exists=True)

    def lacking(
        self, entity: str, project: str, run_id: str, files: Mapping[str, Path]
    ) -> list[str]:
        """Those of ``files`` (by their path in the run) that the server has not, or otherwise."""
        client = self._client(entity, project)
        there: dict[str, dict[str, Any]] = {}
        for names in _slices(sorted(files), _FILES_A_PAGE):
            page = client.run(FILES, run_id, names=names).get("files") or {}
            there.update({edge["node"]["name"]: edge["node"] for edge in page.get("edges") or ()})
        return [name for name, local in files.items() if not _same(there.get(name), local)]

    def _client(self, entity: str, project: str) -> WandbClient:
        key = find_api_key(self._base_url)
        address = ProjectAddress(self._base_url, self._base_url, entity, project, "", key)
        return WandbClient(address, backoff=Backoff(self._patience_s))


def _same(node: Mapping[str, Any] | None, local: Path) -> bool:
    if node is None:
        return False
    if node.get("md5"):
        digest = hashlib.md5(local.read_bytes(), usedforsecurity=False).digest()
        return bool(node["md5"] == b64encode(digest).decode())
    return int(node.get("sizeBytes") or 0) == local.stat().st_size


def _slices(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
