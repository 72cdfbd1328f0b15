"""A folder of offline runs as a target: ``offline:DIR``, which ``wandb sync`` takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.identity import Origin, Twin
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.private_files import FILE_MODE, private_folder
from mlflow_wandb_plugin.core.protocols import Place, Target, TargetOptions, WriteMethod
from mlflow_wandb_plugin.errors import TargetError, UsageError
from mlflow_wandb_plugin.targets.wandb.replica_folder import (
    ReplicaFolder,
    check_run_id,
    folder_name,
)
from mlflow_wandb_plugin.targets.wandb.replica_writer import Arrived, ReplicaPlace, ReplicaWriter

SCHEME = "offline:"
REPLICA_FILE = "mlflow-wandb-replica.json"
"""File of a run's folder with its tags of identity."""
UNFINISHED = ".unfinished-"


class OfflineTarget(Target):
    """A `Target` that writes each run as the folder of an offline run.

    Args:
        root: the folder; it is created.
    """

    write_method = WriteMethod("own", "offline runs, to be uploaded by wandb sync")

    def __init__(self, root: Path, options: TargetOptions) -> None:
        self._root = root
        self._options = options
        try:
            private_folder(root)
        except OSError as error:
            raise UsageError(f"{root} cannot hold offline runs: {error}") from error

    def find(self, info: RunInfo) -> Twin | None:
        folder = self._root / folder_name(info)
        tags = replica_tags(folder)
        if not folder.exists():
            return None
        return Twin(
            run_id=info.run_id,
            experiment_id="",
            origin=tags.get(identity.ORIGIN, ""),
            state=tags.get(identity.STATE, ""),
            position=identity.read_numbers(tags, identity.POSITION),
            rows=identity.read_numbers(tags, identity.ROWS),
            foreign=not identity.same_run(info, tags),
            selection=tags.get(identity.SELECTION, identity.EVERYTHING),
        )

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> ReplicaWriter:
        if twin is not None and twin.foreign:
            raise TargetError(
                f"{self._root / folder_name(info)} holds another run: choose another folder"
            )
        check_run_id(info.run_id)
        name = folder_name(info)
        # Without an entity, `wandb sync` takes that of the key's owner.
        place = OfflinePlace(
            "", info.project, self._root / name, self._root / f"{UNFINISHED}{name}"
        )
        return ReplicaWriter(place, info, origin, Arrived(), self._options.selection)

    def place(self, experiment_id: str, run_id: str) -> Place:
        return Place(str(self._root))


class OfflinePlace(ReplicaPlace):
    """The folder of one offline run. It has its name once it is complete.

    Args:
        entity, project: where ``wandb sync`` uploads it.
        final: the folder; what is there is replaced.
        unfinished: where it is written.
    """

    def __init__(self, entity: str, project: str, final: Path, unfinished: Path) -> None:
        self.entity, self.project = entity, project
        self._final = final
        self._unfinished = unfinished

    def folder(self, info: RunInfo) -> Path:
        return self._unfinished

    def final_folder(self, info: RunInfo) -> Path:
        return self._final

    def lacking_files(self, info: RunInfo, files: Mapping[str, Path]) -> list[str]:
        return list(files)

    def remove_files(self, info: RunInfo, paths: Sequence[str]) -> None:
        """The folder has what the run has now; ``wandb sync`` deletes nothing on a server."""

    def clear(self, info: RunInfo, fields: Collection[str]) -> None:
        """``wandb sync`` empties nothing on a server."""

    def deliver(self, info: RunInfo, folder: ReplicaFolder, whole: Arrived) -> None:
        if folder.used:
            # Only a server has the artifacts of other runs.
            folder.losses["used_artifact"] += len(folder.used)
        write_atomically(
            folder.path / REPLICA_FILE, json.dumps(dict(whole.replica)), mode=FILE_MODE
        )
        shutil.rmtree(self._final, ignore_errors=True)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder.path, self._final)

    def close(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)


def replica_tags(folder: Path) -> Mapping[str, str]:
    """Return the tags of identity of the run in a folder; empty if others wrote it."""
    try:
        document = json.loads((folder / REPLICA_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return identity.tags_in(document)
