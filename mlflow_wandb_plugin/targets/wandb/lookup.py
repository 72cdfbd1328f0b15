"""Ask a W&B server whether it accepts the API key, and what it already has of a run."""

from __future__ import annotations

import hashlib
import json
import os
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetUnavailableError, UsageError
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
_FILES_PER_PAGE = 100
ARRIVAL_TIMEOUT_S = 10.0
"""How long W&B may take to show rows and files that it has accepted."""


class RunAddress(NamedTuple):
    """A run of a W&B server."""

    entity: str
    project: str
    run_id: str


class RemoteRun(NamedTuple):
    """What W&B has of a run. ``rows`` is the number of its history's next row."""

    rows: int
    config: Mapping[str, Any]


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
    """Questions to the W&B server that the environment names.

    Raises from every method:
        UsageError: there is no key, or the server does not accept it.
        SourceUnavailableError: the server did not answer.
        SourceError: it refused for good.
    """

    def __init__(self, patience_s: float = 5.0) -> None:
        self._base_url = default_server()
        self._patience_s = patience_s

    def entity(self, given: str = "") -> str:
        """``given``, else the default entity of the API key's owner.

        Asks the server in any case, to know that it answers and accepts the key.
        """
        viewer = self._client("", "").query(VIEWER).get("viewer")
        if not isinstance(viewer, dict):
            raise UsageError(
                f"{self._base_url} does not accept the API key: set WANDB_API_KEY, "
                f"or run `wandb login --host {self._base_url}`"
            )
        return given or str(viewer.get("entity") or viewer.get("username") or "")

    def run(self, address: RunAddress) -> RemoteRun:
        """What the server has of a run now; of a run that it does not have, nothing."""
        data = self._client(address.entity, address.project).query(RUN, run=address.run_id)
        run = (data.get("project") or {}).get("run")
        if not isinstance(run, dict):
            return RemoteRun(0, {})
        tail = json.loads(run.get("historyTail") or "[]")
        last = json.loads(tail[-1]) if tail else {}
        rows = int(last.get("_step", (run.get("historyLineCount") or 0) - 1)) + 1
        config = json.loads(run.get("config") or "{}")
        for key, item in config.items():
            config[key] = item["value"] if isinstance(item, dict) and "value" in item else item
        return RemoteRun(rows, config)

    def _missing_files(self, address: RunAddress, files: Mapping[str, Path]) -> list[str]:
        """Those of ``files`` (by their path in the run) that the server lacks or has otherwise."""
        client = self._client(address.entity, address.project)
        remote: dict[str, dict[str, Any]] = {}
        names = sorted(files)
        for start in range(0, len(names), _FILES_PER_PAGE):
            asked = names[start : start + _FILES_PER_PAGE]
            page = client.run(FILES, address.run_id, names=asked).get("files") or {}
            remote.update({edge["node"]["name"]: edge["node"] for edge in page.get("edges") or ()})
        return [name for name, local in files.items() if not _same(remote.get(name), local)]

    def wait_for_arrival(self, address: RunAddress, rows: int, files: Mapping[str, Path]) -> None:
        """Wait until the server has the run's first ``rows`` history rows and all ``files``.

        Raises:
            TargetUnavailableError: it lacks some after `ARRIVAL_TIMEOUT_S`.
        """
        deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
        pause_s = 0.1
        while True:
            found = self.run(address).rows
            missing = self._missing_files(address, files)
            if found >= rows and not missing:
                return
            if time.monotonic() > deadline:
                lacks = f"{found} of {rows} rows, lacks {len(missing)} files"
                raise TargetUnavailableError(f"W&B has {lacks}: they are sent again")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

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
