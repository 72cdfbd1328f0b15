"""A folder of offline runs as a target: ``offline:DIR``, which ``wandb sync`` takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
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
        tags = _tags(folder)
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
        place = OfflinePlace(self._root, info)
        return ReplicaWriter(place, info, origin, Arrived(), self._options.selection)

    def place(self, experiment_id: str, run_id: str) -> Place:
        return Place(str(self._root))


class OfflinePlace(ReplicaPlace):
    """The folder of one offline run. It has its name once it is complete."""

    def __init__(self, root: Path, info: RunInfo) -> None:
        # Without an entity, `wandb sync` takes that of the key's owner.
        self.entity, self.project = "", info.project
        self._root = root
        self._folder = root / f"{UNFINISHED}{folder_name(info)}"

    def folder(self, info: RunInfo) -> Path:
        return self._folder

    def final_folder(self, info: RunInfo) -> Path:
        return self._root / folder_name(info)

    def lacking_files(self, info: RunInfo, files: Mapping[str, Path]) -> list[str]:
        return list(files)

    def deliver(self, info: RunInfo, folder: ReplicaFolder, whole: Arrived) -> None:
        if folder.used:
            # Only a server has the artifacts of other runs.
            folder.losses["used_artifact"] += len(folder.used)
        write_atomically(
            folder.path / REPLICA_FILE, json.dumps(dict(whole.replica)), mode=FILE_MODE
        )
        final = self.final_folder(info)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(folder.path, final)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _tags(folder: Path) -> Mapping[str, str]:
    try:
        document = json.loads((folder / REPLICA_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict):
        return {}
    return identity.present_tags({str(key): str(value) for key, value in document.items()})
