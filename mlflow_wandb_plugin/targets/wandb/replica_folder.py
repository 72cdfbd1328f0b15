"""The folder of one run as wandb keeps it: a transaction log, and the run's files beside it."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.atomic_files import copy_file, link_or_copy, replaced
from mlflow_wandb_plugin.core.file_digests import base64_md5
from mlflow_wandb_plugin.core.model import NO_FILE, ArtifactEntry, ArtifactRef, FileRef, RunInfo
from mlflow_wandb_plugin.core.private_files import private_folder
from mlflow_wandb_plugin.errors import TargetError
from mlflow_wandb_plugin.mapping.names import is_below, safe_path
from mlflow_wandb_plugin.mapping.to_wandb import artifact_name
from mlflow_wandb_plugin.targets.wandb import log_records
from mlflow_wandb_plugin.targets.wandb.log_records import LogArtifact, ManifestEntry
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter

_NOT_IN_ID = re.compile(r"[/\\#?%:\x00-\x1f\x7f]")
FILES, ARTIFACTS = "files", "artifacts"
BUFFER_BYTES = 1 << 20
MANIFEST_DIGEST_START = b"wandb-artifact-manifest-v1\n"
"""What the digest of a manifest begins with. Source: wandb.sdk.artifacts, ArtifactManifestV1."""
WRITTEN_BY_CORE = frozenset({"config.yaml", "wandb-summary.json"})
"""Files that wandb-core makes of the log itself."""


def check_run_id(run_id: str) -> None:
    """Check an id that may come from somebody else's archive: it becomes part of addresses.

    Raises:
        TargetError: W&B takes no such id. Source: the validation of `wandb.Settings.run_id`.
    """
    if not run_id.strip() or _NOT_IN_ID.search(run_id) or run_id in (".", ".."):
        raise TargetError(f"W&B takes no run with the id {run_id!r}")


def folder_name(info: RunInfo) -> str:
    """Return the name that wandb gives to the folder of an offline run, with its start in UTC."""
    started = time.gmtime((info.started_ms or 0) / 1000)
    return f"offline-run-{time.strftime('%Y%m%d_%H%M%S', started)}-{safe_path(info.run_id)}"


class ReplicaFolder:
    """Writes the log and the files of one run into a new folder.

    Args:
        path: the folder; what is there is removed.
        final: where the folder will be when the log is read.
        losses: counts what cannot be written, by kind.

    Attributes:
        files: copies of the run's files, by their path in the run.
        removed: files and folders that the run no longer has.
        artifacts: the artifacts to be logged, in order.
        used: artifacts that the run used, which other runs have logged.
    """

    def __init__(self, path: Path, final: Path, run_id: str, losses: Counter[str]) -> None:
        shutil.rmtree(path, ignore_errors=True)
        private_folder(path)
        private_folder(path / FILES)
        self.path = path
        self._final = final.absolute()
        self.log_path = path / f"run-{safe_path(run_id)}.wandb"
        self.files: dict[str, Path] = {}
        self.removed: list[str] = []
        self.artifacts: list[LogArtifact] = []
        self.used: list[ArtifactRef] = []
        self.losses = losses
        self._log = LogWriter(self.log_path, BUFFER_BYTES)
        self._records = 0
        self._further_logs = 0
        self.write(log_records.header())

    def write(self, record: Any) -> None:
        """Append a record to the log."""
        self._records += 1
        record.num = self._records
        self._log.append(record.SerializeToString())

    def close(self) -> None:
        self._log.close()

    def add_file(self, item: FileRef) -> None:
        """Keep a file of the run, also when the source removes its own copy."""
        if item.path in WRITTEN_BY_CORE:
            return
        if item.removed:
            self._remove_file(safe_path(item.path))
            return
        if item.refused or item.local == NO_FILE or not item.local.is_file():
            self.losses["file"] += 1
            return
        path = safe_path(item.path)
        copy = self.path / FILES / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        with replaced(copy) as temporary:
            # A link to a file that the source may still write would change with it.
            (link_or_copy if item.fixed else copy_file)(item.local, temporary)
        self.files[path] = copy

    def _remove_file(self, path: str) -> None:
        """Remove a file, or the files of a folder."""
        for known in [name for name in self.files if is_below(name, path)]:
            del self.files[known]
        self.removed.append(path)

    def add_artifact(self, item: ArtifactRef) -> None:
        """Keep an artifact with its files, to be logged at the end, under a name that W&B takes."""
        item = replace(item, name=artifact_name(item.name))
        if item.used and not item.entries:
            self.used.append(item)
            return
        place = self.path / ARTIFACTS / str(len(self.artifacts))
        entries = [entry for entry in map(self._entry_of(place), item.entries) if entry is not None]
        entries.sort(key=lambda entry: entry.path)
        named = [alias for alias in item.aliases if not is_version(alias)]
        aliases = [] if item.used else ["latest", *named]
        self.artifacts.append(LogArtifact(item, manifest_digest(entries), entries, aliases))

    def _entry_of(self, place: Path) -> Any:
        def entry(item: ArtifactEntry) -> ManifestEntry | None:
            if item.ref is not None or item.kept_in:
                ref = item.ref or ""
                return ManifestEntry(item.path, item.digest, item.size, "", ref, item.kept_in)
            if item.local is None or not item.local.is_file():
                self.losses["artifact_file"] += 1
                return None
            copy = place / safe_path(item.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(item.local, copy)
            digest, size = base64_md5(copy), copy.stat().st_size
            local = self._final / copy.relative_to(self.path)
            return ManifestEntry(item.path, digest, size, str(local))

        return entry

    def write_files(self, paths: Iterable[str]) -> None:
        """Have ``paths``, of `files`, uploaded."""
        if wanted := sorted(paths):
            self.write(log_records.files(wanted))

    def further_log(self, records: Iterable[Any]) -> Path:
        """Write ``records`` into another log of the run; returns its path."""
        self._further_logs += 1
        path = self.path / f"{self.log_path.stem}-{self._further_logs}.wandb"
        with LogWriter(path, BUFFER_BYTES) as log:
            for place, record in enumerate((log_records.header(), *records), 1):
                record.num = place
                log.append(record.SerializeToString())
        return path

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def in_rounds(artifacts: Iterable[LogArtifact]) -> list[list[LogArtifact]]:
    """Part artifacts so that they can be uploaded one part after the other: wandb-core may upload
    those of one log at the same time, and W&B numbers the versions of an artifact as they arrive.
    """
    rounds: list[list[LogArtifact]] = []
    versions: Counter[tuple[str, str]] = Counter()
    for artifact in artifacts:
        name = artifact.about.type, artifact.about.name
        if versions[name] == len(rounds):
            rounds.append([])
        rounds[versions[name]].append(artifact)
        versions[name] += 1
    return rounds


def manifest_digest(entries: Iterable[ManifestEntry | ArtifactEntry]) -> str:
    """Return the digest of an artifact, which W&B computes from those of its files."""
    digest = hashlib.md5(MANIFEST_DIGEST_START, usedforsecurity=False)
    for entry in sorted(entries, key=lambda entry: entry.path):
        digest.update(f"{entry.path}:{entry.digest}\n".encode())
    return digest.hexdigest()


def is_version(alias: str) -> bool:
    """Whether W&B itself gives an alias to a version: ``latest``, ``v0``, ``v1``, …"""
    return alias == "latest" or (alias[:1] == "v" and alias[1:].isdigit())
