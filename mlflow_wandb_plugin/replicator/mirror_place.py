"""Where a mirrored run goes: a W&B server, or a folder of offline runs; and what is there of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import Model
from mlflow_wandb_plugin.sources.mlflow.journal_reading import JournalStart
from mlflow_wandb_plugin.targets.wandb.lookup import Access, RunAddress
from mlflow_wandb_plugin.targets.wandb.offline_target import OfflinePlace, replica_tags
from mlflow_wandb_plugin.targets.wandb.replica_folder import check_run_id, folder_name
from mlflow_wandb_plugin.targets.wandb.replica_writer import Arrived, ReplicaWriter
from mlflow_wandb_plugin.targets.wandb.run_changes import RunChanges
from mlflow_wandb_plugin.targets.wandb.server_target import ServerPlace
from mlflow_wandb_plugin.wandb_api.address import (
    default_server,
    find_api_key,
    server_address,
    wandb_folder,
)


class MirrorPlace(ABC):
    """A mirrored run in W&B.

    Attributes:
        section: `rules.MLFLOW_KEY` of its config; empty if it is not there.
        rows: number of its history's next row.
        whole: whether it can be written once, and not in parts.
    """

    section: Mapping[str, Any]
    rows: int
    whole: bool

    @abstractmethod
    def models(self) -> dict[str, Model]:
        """Return the logged models that W&B has of the run, by id."""

    @abstractmethod
    def writer(self, info: RunInfo, start: JournalStart) -> ReplicaWriter:
        """Return a writer of the journal's part of the run."""

    @abstractmethod
    def where(self) -> str:
        """Return the run's URL or folder, as far as it is known."""


class OnlineMirror(MirrorPlace):
    """A mirrored run on the server that wandb is logged in to.

    Raises:
        UsageError: there is no key, or the server does not accept it.
        SourceUnavailableError: the server did not answer.
    """

    whole = False

    def __init__(self, entity: str, project: str, run_id: str) -> None:
        self._access = Access()
        server = server_address(default_server(), find_api_key(default_server()))
        entity = self._access.entity(entity)
        self._address = replace(server, entity=entity, project=project)
        self._run_id = run_id
        self._remote = self._access.run(RunAddress(entity, project, run_id))
        self.rows = self._remote.rows
        section = self._remote.config.get(rules.MLFLOW_KEY)
        self.section = section if isinstance(section, Mapping) else {}

    def models(self) -> dict[str, Model]:
        changes = RunChanges(self._address, self._run_id)
        return changes.models() if self._remote.exists else {}

    def writer(self, info: RunInfo, start: JournalStart) -> ReplicaWriter:
        remote = self._remote
        replica = identity.tags_in(remote.config.get(identity.REPLICA_CONFIG_KEY))
        arrived = Arrived(remote.rows, remote.lines, remote.system_samples, replica)
        place = ServerPlace(self._address, self._access, lambda: None)
        return ReplicaWriter(place, info, "dual", arrived, "", sends_parts=True)

    def where(self) -> str:
        return self._address.run_url(self._run_id)


class OfflineMirror(MirrorPlace):
    """A mirrored run that becomes an offline run, in the folder where wandb has those.

    Args:
        journal: the run's journal.
        status: the status file of an earlier attempt, or of an earlier journal of the run, which
            alone knows of them.
    """

    whole = True

    def __init__(self, journal: Path, status: Mapping[str, Any]) -> None:
        self.section = status.get("about") or {}
        self.rows = int(status.get("rows") or 0)
        self._unfinished = journal.with_suffix(".wandb")
        self._folder: Path | None = None

    def models(self) -> dict[str, Model]:
        return {}

    def writer(self, info: RunInfo, start: JournalStart) -> ReplicaWriter:
        check_run_id(info.run_id)
        self._folder = wandb_folder() / folder_name(info)
        if start.record["row"] or not _is_of_run(self._folder, info):
            # An earlier journal of the run has the folder, or somebody else.
            journal_id = start.record["id"]
            self._folder = self._folder.with_name(f"{self._folder.name}-{journal_id}")
        place = OfflinePlace(info.entity, info.project, self._folder, self._unfinished)
        # The rows of this journal alone, also if an earlier attempt wrote them.
        return ReplicaWriter(place, info, "dual", Arrived(start.record["row"]), "")

    def where(self) -> str:
        return "" if self._folder is None else str(self._folder)


def _is_of_run(folder: Path, info: RunInfo) -> bool:
    """Whether a folder is free, or has a replica of the run."""
    if folder.is_symlink():
        return False
    return not folder.exists() or identity.same_run(info, replica_tags(folder))
