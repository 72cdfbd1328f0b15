"""The files of a run or a logged model, one at a time.

What a store says of its files may come from anybody: it does not choose which local file is read,
nor which server gets this machine's credentials.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mlflow_wandb_plugin.core.model import NO_FILE
from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.mlflow_access.faults import SERVERS
from mlflow_wandb_plugin.mlflow_access.repositories import open_repository
from mlflow_wandb_plugin.sources.mlflow.store_client import StoreClient
from mlflow_wandb_plugin.sources.temp_dirs import RefCountedTempDir
from mlflow_wandb_plugin.wandb_log.local_files import FOLLOW_LINKS, LocalFiles

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_LAYOUT = re.compile(r"/(?:models/m-[0-9a-f]{32}|[0-9a-f]{32})/artifacts/*$")
"""How MLflow ends the folder of a run's or a model's files."""
UPLOADING = ".artifact.uploading."
"""How MLflow begins the name of a file that it has not written to its end; a process that is
killed leaves it. Source: mlflow.store.artifact.local_artifact_repo."""


def temporary_file(name: str) -> Path:
    """Return the path of a new file, which exists while the path is referenced."""
    return RefCountedTempDir("mlflow-wandb-read-").new_file(name)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file among the artifacts; ``size`` is in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """Where a file is on this machine; `NO_FILE`, and why, if it is not read."""

    path: Path
    refused: str = ""


class ArtifactStore:
    """The files below one artifact URI.

    Args:
        uri: as the store has it.
        follow_links: read every local file that the store names.

    Raises:
        SourceError: the URI is not used, or its store cannot be opened.
    """

    def __init__(self, client: StoreClient, uri: str, follow_links: bool) -> None:
        self._client = client
        self._folder = _local_folder(uri)
        self._repository: ArtifactRepository | None = None
        if self._folder is not None:
            refusal = "" if follow_links else _refusal(client.uri, self._folder)
            if refusal:
                raise SourceError(f"{self._folder} is not read: {refusal}")
            self._local = LocalFiles(self._folder, follow_links)
            return
        _check_host(client.uri, uri)
        self._repository = client.ask(open_repository, uri, client.uri)

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        """Yield all files below ``folder``, a folder at a time.

        Raises:
            SourceError, SourceUnavailableError: they cannot be listed.
        """
        if self._folder is not None:
            yield from self._local_files(self._folder)
            return
        assert self._repository is not None
        for found in self._client.ask(self._repository.list_artifacts, folder or None):
            if not found.is_dir:
                yield StoredFile(found.path, int(found.file_size or 0))
            elif found.path.strip("/") != folder.strip("/"):
                yield from self.files(found.path)

    def _local_files(self, root: Path) -> Iterator[StoredFile]:
        for path in sorted(root.rglob("*")):
            if path.name.startswith(UPLOADING):
                continue
            # A link to a folder may lead anywhere: rglob does not follow it.
            if path.is_file() or (path.is_symlink() and not path.is_dir()):
                size = path.stat().st_size if path.exists() else 0
                yield StoredFile(path.relative_to(root).as_posix(), size)

    def fetch(self, path: str) -> LocalCopy:
        """Return a local copy of a file. One that is downloaded exists while the path that is
        returned is referenced; a file of this machine is returned as it is.

        Raises:
            SourceError, SourceUnavailableError: it cannot be downloaded.
        """
        if self._folder is not None:
            local = self._folder / path
            refused = self._local.refusal(local)
            return LocalCopy(NO_FILE if refused else local, refused)
        if ".." in path.split("/") or path.startswith("/"):
            raise SourceError("its name leads out of the run's folder")
        # The path keeps its folder: each file has its own, which goes when it is not needed.
        local = temporary_file(safe_path(path).rpartition("/")[2])
        self._client.ask(self._download, path, local)
        return LocalCopy(local)

    def _download(self, path: str, local: Path) -> None:
        repository: Any = self._repository
        # MLflow makes the folders of the path, which may be called as the file.
        with tempfile.TemporaryDirectory(dir=local.parent) as folder:
            Path(repository.download_artifacts(path, folder)).replace(local)


def _local_folder(uri: str) -> Path | None:
    """The local folder of an artifact URI; None for a store elsewhere."""
    address = urlsplit(uri)
    if address.scheme not in ("", "file"):
        return None
    return Path(unquote(address.path) if address.scheme else uri).absolute()


def _refusal(tracking_uri: str, folder: Path) -> str:
    """Say why a local folder that a store names is not read; empty if it is."""
    if tracking_uri.startswith(SERVERS):
        return f"a server named it; pass {FOLLOW_LINKS} if it keeps its artifacts on this machine"
    if not _LAYOUT.search(folder.as_posix()):
        return f"MLflow does not name folders so; pass {FOLLOW_LINKS} if it has the run's files"
    return ""


def _check_host(tracking_uri: str, uri: str) -> None:
    """Refuse an address to which MLflow would send the credentials of the tracking server."""
    address, server = urlsplit(uri), urlsplit(tracking_uri)
    if address.scheme not in ("http", "https", "mlflow-artifacts") or not address.netloc:
        return
    if (address.hostname, address.port) != (server.hostname, server.port):
        raise SourceError(f"its files are on another server, {address.hostname}, than its run")
