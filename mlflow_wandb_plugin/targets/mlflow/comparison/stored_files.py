"""Compares files with the artifacts of an MLflow run, with few requests."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mlflow_wandb_plugin.core.server_values import is_kept_as
from mlflow_wandb_plugin.mapping.documents import CONFIG_FILE, SUMMARY_FILE, canonical_json
from mlflow_wandb_plugin.mlflow_access.repositories import open_repository
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.comparison.expected_run import FileContent, content_of

DOWNLOADS = 4
"""Files of a run that are downloaded at the same time."""
NOT_IN_A_LOG = ("digest",)
"""What a local log does not tell of an artifact that the run used."""
KNOWN_TO_THE_SERVER = ("version", "aliases")
"""Entries of an artifact's description that a local log does not have as W&B's server has them."""

FileResult: TypeAlias = Literal["equal", "by design", "absent", "different"]


class StoredFiles:
    """The artifacts of one run, or of one of its logged models. Files of this machine are read in
    place; other stores get one request per folder and one per file whose size is right.

    Args:
        two_descriptions: whether one of the run and its replica is described by W&B's server, and
            the other by a local log.
        from_server: whether it is the run that W&B's server describes.
    """

    def __init__(
        self,
        client: Client,
        artifact_uri: str | None,
        two_descriptions: bool,
        from_server: bool,
    ) -> None:
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        self._client = client
        self._two_descriptions = two_descriptions
        self._from_server = from_server
        repository = open_repository(artifact_uri or "", client.mlflow.tracking_uri)
        self._repository = repository
        self._folder: Path | None = None
        if isinstance(repository, LocalArtifactRepository):
            self._folder = Path(repository.artifact_dir)
        self._sizes: dict[str, dict[str, int | None]] = {}
        self._lock = threading.Lock()

    def compare(self, wanted: dict[str, FileContent]) -> dict[str, FileResult]:
        """Return the result for each path."""
        if not self._two_descriptions:
            wanted = {path: replace(content, text="") for path, content in wanted.items()}
        if self._folder is not None:
            return {path: self._compare_local(path, wanted[path]) for path in wanted}
        with (
            ThreadPoolExecutor(DOWNLOADS, "mlflow-wandb-verify") as pool,
            tempfile.TemporaryDirectory(prefix="mlflow-wandb-verify-") as folder,
        ):
            results = pool.map(lambda path: self._fetch(path, wanted[path], Path(folder)), wanted)
            return dict(zip(wanted, results, strict=True))

    def _compare_local(self, path: str, wanted: FileContent) -> FileResult:
        local = Path(self._folder or "", path)
        try:
            size = local.stat().st_size
            if not local.is_file():
                return "absent"
            return self._result(path, wanted, local, size)
        except OSError:
            return "absent"

    def _fetch(self, path: str, wanted: FileContent, folder: Path) -> FileResult:
        sizes = self._listed(path.rpartition("/")[0])
        if path not in sizes:
            return "absent"
        size = sizes[path]
        if size is not None and size != wanted.size and not wanted.text:
            return "different"
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                local = self._client.call(self._download, path, place)
            except RefusedError:
                return "absent"
            return self._result(path, wanted, local, local.stat().st_size)

    def _result(self, path: str, wanted: FileContent, local: Path, size: int) -> FileResult:
        """Compare a local copy, of ``size`` bytes, of the file at ``path``."""
        if size == wanted.size and content_of(local).digest == wanted.digest:
            return "equal"
        if not wanted.text or (there := _document(local)) is None:
            return "different"
        expected = json.loads(wanted.text)
        if path in (CONFIG_FILE, SUMMARY_FILE):
            logged, kept = (there, expected) if self._from_server else (expected, there)
            return "by design" if is_kept_as(logged, kept) else "different"
        return "by design" if _described_equally(expected, there) else "different"

    def _download(self, path: str, place: str) -> Path:
        local = Path(place, "file")
        # The public method would list the folder at each file.
        self._repository._download_file(path, str(local))  # type: ignore[no-untyped-call]
        return local

    def _list(self, folder: str) -> Any:
        return self._repository.list_artifacts(folder or None)

    def _listed(self, folder: str) -> dict[str, int | None]:
        """Sizes of the files in a folder, by path; None where the store does not tell them."""
        with self._lock:
            if folder not in self._sizes:
                found: Any = self._client.call(self._list, folder)
                self._sizes[folder] = {f.path: f.file_size for f in found if not f.is_dir}
            return self._sizes[folder]


def _document(local: Path) -> Any:
    """Read a document that this package has written; None if it is another file."""
    try:
        text = local.read_text(encoding="utf-8")
        document = json.loads(text)
    except (ValueError, OSError):
        return None
    return document if text == canonical_json(document, indent=1) + "\n" else None


def _described_equally(expected: Any, there: Any) -> bool:
    """Whether two descriptions of artifacts differ only in what W&B's server alone knows."""
    if isinstance(there, dict):
        return _without_server_facts(there) == _without_server_facts(expected)
    # What a run used: a local log may name it by several of its aliases.
    return all(isinstance(one, dict) for one in there) and _names(there) == _names(expected)


def _without_server_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in KNOWN_TO_THE_SERVER}


def _names(used: Iterable[Mapping[str, Any]]) -> set[str]:
    unknown = (*KNOWN_TO_THE_SERVER, *NOT_IN_A_LOG)
    known = ({key: value for key, value in one.items() if key not in unknown} for one in used)
    return set(map(canonical_json, known))
