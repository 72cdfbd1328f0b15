"""MLflow's artifact repositories of the runs that were used last."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

KEPT_REPOSITORIES = 1000


class ArtifactRepositories:
    """Keeps repositories, for MLflow's client reads a run again at each file. Thread-safe.

    Args:
        uris: matches the artifact URIs whose repositories are kept.
        tracking_uri: of the server that serves the artifacts.
    """

    def __init__(self, uris: str, tracking_uri: str) -> None:
        self._uris = re.compile(uris)
        self._tracking_uri = tracking_uri
        self._repositories: dict[str, ArtifactRepository | None] = {}
        self._lock = threading.Lock()

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._repositories

    def add(self, run_id: str, uri: str) -> None:
        """Keep the repository of a run, by its artifact URI."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if run_id in self._repositories:
            return
        repository = None
        if self._uris.match(uri):
            repository = get_artifact_repository(uri, tracking_uri=self._tracking_uri)
        with self._lock:
            self._repositories[run_id] = repository
            while len(self._repositories) > KEPT_REPOSITORIES:
                del self._repositories[next(iter(self._repositories))]

    def get(self, run_id: str) -> ArtifactRepository | None:
        """The repository of a run; None if it is not kept."""
        return self._repositories.get(run_id)

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None) -> bool:
        """Upload a file; False if the run's repository is not kept."""
        repository = self.get(run_id)
        if repository is not None:
            repository.log_artifact(local_path, artifact_path)  # type: ignore[no-untyped-call]
        return repository is not None
